"""How a build is cut, and how the parts are named: pure functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from backend_wheels import notices
from backend_wheels.cut import cut_core, cut_plugin, plugins_of
from backend_wheels.project import names

from pyllama.builder.verify.elf import Library
from pyllama.errors import BuildError, UsageError

LIBRARIES = (
    *("libggml-base.so", "libggml.so", "libllama.so"),
    *("libggml-cpu-haswell.so", "libggml-cpu-x64.so", "libggml-rpc.so", "libggml-vulkan.so"),
)
LICENSES = ("llama.cpp", "llamafile", "shaders")
INFO: dict[str, Any] = {
    "pin": "2026-10",
    "commit": "c" * 40,
    "key": "a" * 64,
    "build_key": "b" * 64,
    "flavour": "release",
    "identity": '{"pin": "2026-10"}',
    "backends": ["cpu-all", "vulkan", "rpc"],
    "plugins": ["ggml-cpu-haswell", "ggml-cpu-x64", "ggml-vulkan", "ggml-rpc"],
    "options": {"GGML_RPC": "ON"},
    "files": {
        **{f"lib/{name}": 1 for name in LIBRARIES},
        **{f"licenses/LICENSE-{name}": 2 for name in LICENSES},
        **dict.fromkeys(("include/ggml-rpc.h", "python/_pyllama.abi3.so", "provenance.json"), 3),
    },
}


def work(library: str, notice: str) -> dict[str, str]:
    return {"library": f"lib/{library}", "notice": f"licenses/LICENSE-{notice}" if notice else ""}


TOLD: dict[str, Any] = {
    "schema": 1,
    "libraries": [{"file": f"lib/{name}", "needs": []} for name in LIBRARIES],
    "third_party": [
        work("libggml-cpu-x64.so", "llamafile"),
        work("libggml-vulkan.so", "llamafile"),
        work("libggml-vulkan.so", "shaders"),
        work("libggml-vulkan.so", ""),
    ],
}


def test_the_core_keeps_the_cpus_and_drops_every_other_backend() -> None:
    core, told = cut_core(INFO, TOLD)
    assert core.manifest["backends"] == ["cpu-all"]
    assert core.manifest["plugins"] == ["ggml-cpu-haswell", "ggml-cpu-x64"]
    gone = {"lib/libggml-vulkan.so", "lib/libggml-rpc.so", "licenses/LICENSE-shaders"}
    assert set(core.files) == set(INFO["files"]) - gone
    assert {row["file"] for row in told["libraries"]} == {f for f in core.files if f.startswith("lib/")}
    assert told["third_party"] == TOLD["third_party"][:1]


def test_nothing_else_of_the_manifest_changes() -> None:
    core, told = cut_core(INFO, TOLD)
    same = set(INFO) - {"backends", "plugins", "files"}
    assert set(core.manifest) == same | {"backends", "plugins"}
    assert all(core.manifest[name] == INFO[name] for name in same)
    assert told["schema"] == TOLD["schema"]


def test_a_core_is_cut_into_itself() -> None:
    core, told = cut_core(INFO, TOLD)
    info = {**core.manifest, "files": {name: INFO["files"][name] for name in core.files}}
    assert plugins_of(info) == {}
    assert cut_core(info, told) == (core, told)


def test_every_file_is_in_the_core_or_in_a_plugin() -> None:
    core, _ = cut_core(INFO, TOLD)
    parts = [core, *(cut_plugin(INFO, TOLD, backend) for backend in plugins_of(INFO))]
    assert {file for part in parts for file in part.files} == set(INFO["files"])


def test_a_plugin_has_its_library_and_the_licences_of_what_is_inside() -> None:
    assert cut_plugin(INFO, TOLD, "rpc").files == ("lib/libggml-rpc.so", "licenses/LICENSE-llama.cpp")
    vulkan = cut_plugin(INFO, TOLD, "vulkan")
    assert vulkan.files == ("lib/libggml-vulkan.so", *(f"licenses/LICENSE-{name}" for name in LICENSES))
    assert vulkan.manifest == {
        "schema": 1,
        "backend": "vulkan",
        "library": "libggml-vulkan.so",
        **{name: INFO[name] for name in ("pin", "commit", "key", "build_key", "flavour", "identity")},
    }


def test_a_backend_that_the_build_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="no plug-in for 'cuda', only for vulkan, rpc"):
        cut_plugin(INFO, TOLD, "cuda")
    with pytest.raises(UsageError):  # a CPU's is the core's
        cut_plugin(INFO, TOLD, "cpu-x64")


def test_a_plugin_without_its_file_is_refused() -> None:
    files = {name: size for name, size in INFO["files"].items() if name != "lib/libggml-rpc.so"}
    with pytest.raises(BuildError, match="ggml-rpc"):
        cut_core({**INFO, "files": files}, TOLD)


def test_names() -> None:
    plain = names("rpc", "1.2", Library(frozenset(), ("libc.so.6",), ("$ORIGIN",)))
    assert plain.distribution == "pyllama-cffi-rpc" and plain.package == "pyllama_cffi_rpc"
    assert plain.requires == ("pyllama-cffi==1.2",)
    needed = ("libcudart.so.13", "libcublas.so.13", "libcuda.so.1")
    system = names("cuda", "1.2", Library(frozenset(), needed, ("$ORIGIN",)))
    assert system.distribution == "pyllama-cffi-cuda13" and system.package == "pyllama_cffi_cuda13"
    assert system.requires == ("pyllama-cffi==1.2",)
    packaged = names("cuda", "1.2", Library(frozenset(), needed, ("$ORIGIN/../nvidia/cu13/lib",)))
    assert packaged.requires[1:] == ("nvidia-cublas>=13,<14", "nvidia-cuda-runtime>=13,<14")


def test_licences_of_what_was_grafted(tmp_path: Path) -> None:
    info = tmp_path / "x-1.dist-info"
    (info / "sboms").mkdir(parents=True)
    (info / "licenses").mkdir()
    metadata = (
        "Metadata-Version: 2.4\nName: x\nLicense-File: LICENSE\nVersion: 1\n\nLicense-File: in the text\n"
    )
    (info / "METADATA").write_text(metadata)
    assert notices.add(tmp_path) == []  # nothing was grafted
    assert (info / "METADATA").read_text() == metadata
    rows = ("pkg:pypi/x@1", "pkg:deb/debian/libgomp1@12.2.0-14%2Bdeb12u1", "pkg:deb/debian/liblost@1")
    bom = {"components": [{"purl": row} for row in rows]}
    (info / "sboms" / "auditwheel.cdx.json").write_text(json.dumps(bom))
    (tmp_path / "doc" / "libgomp1").mkdir(parents=True)
    (tmp_path / "doc" / "libgomp1" / "copyright").write_text("GPL with the runtime exception\n")
    assert notices.add(tmp_path, tmp_path / "doc") == ["liblost"]
    assert (info / "licenses" / "LICENSE-libgomp1").read_text() == "GPL with the runtime exception\n"
    assert (info / "METADATA").read_text() == metadata.replace(
        "License-File: LICENSE\n", "License-File: LICENSE\nLicense-File: LICENSE-libgomp1\n"
    )

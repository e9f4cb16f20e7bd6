"""How a build is cut, and how the parts are named: pure functions."""

from __future__ import annotations

import json
from email import message_from_string
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from backend_wheels import grafts, notices
from backend_wheels.__main__ import DEFAULT
from backend_wheels.cut import cut_core, cut_plugin, for_all, licenses, only_for, plugins_of
from backend_wheels.project import names
from cyclonedx.spdx import is_expression

from pyllama.builder import third_party
from pyllama.builder.provenance import ADDED
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


def test_a_core_is_for_every_cpu_unless_one_kind_is_named() -> None:
    assert for_all(DEFAULT) == ["cpu-all", "rpc"]
    assert for_all(["vulkan"]) == ["cpu-all", "vulkan"]
    assert for_all(["rpc", "cpu"]) == ["rpc", "cpu"]
    assert only_for({**INFO, "cpu": "all"}) == ""
    assert only_for({**INFO, "backends": ["cpu", "rpc"], "cpu": "haswell"}) == "haswell"


def test_a_copy_with_programs_is_refused() -> None:
    held = {**INFO, "files": {**INFO["files"], "bin/llama-simple": 9, ADDED: 9}}
    with pytest.raises(UsageError, match="name the folder that `pyllama build` prints"):
        cut_core(held, TOLD)


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


def row(library: str, name: str, license: str) -> dict[str, str]:
    return {"library": f"lib/{library}", "name": name, "license": license}


SAID: dict[str, Any] = {
    "features": [{"license": "ISC", "patch": "patches/0001-x.patch"}, {"license": "Zlib", "patch": ""}],
    "third_party": [
        row("libggml-cpu-x64.so", "optimized-routines", "MIT OR Apache-2.0 WITH LLVM-exception"),
        row("libllama.so", "other", "BSD-3-Clause"),
        row("libggml-vulkan.so", "Vulkan-Headers", "Apache-2.0"),
    ],
}


def test_the_licences_of_each_part() -> None:
    assert licenses(INFO, SAID) == ["MIT", "BSD-3-Clause", "ISC"]
    assert licenses(INFO, SAID, "vulkan") == ["MIT", "Apache-2.0", "ISC"]
    assert licenses(INFO, SAID, "rpc") == ["MIT", "ISC"]
    for work in third_party.WORKS:
        assert is_expression(grafts.expression(["MIT", work.license], [])), work.name


def test_a_build_that_does_not_say_whose_headers_are_inside_is_refused() -> None:
    with pytest.raises(BuildError, match="vulkan holds code of Vulkan-Headers: build it again with --force"):
        licenses(INFO, {**SAID, "third_party": []}, "vulkan")


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


# --- what was grafted ---

METADATA = (
    "Metadata-Version: 2.4\nName: x\nVersion: 1\nLicense-Expression: MIT\nLicense-File: LICENSE\n"
    "\nLicense-File: in the text\n"
)
GCC = "GPL-3.0-or-later WITH GCC-exception-3.1"


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """An unpacked wheel into which nothing was grafted."""
    info = tmp_path / "wheel/x-1.dist-info"
    (info / "licenses").mkdir(parents=True)
    (info / "METADATA").write_text(METADATA)
    return tmp_path / "wheel"


def graft(unpacked: Path, *purls: str, libraries: tuple[str, ...]) -> None:
    info = unpacked / "x-1.dist-info"
    (info / "sboms").mkdir()
    bom = {"components": [{"purl": "pkg:pypi/x@1"}, *({"purl": purl} for purl in purls)]}
    (info / "sboms/auditwheel.cdx.json").write_text(json.dumps(bom))
    (unpacked / "x.libs").mkdir()
    for library in libraries:
        (unpacked / "x.libs" / library).touch()


def metadata(unpacked: Path) -> Message:
    return message_from_string((unpacked / "x-1.dist-info/METADATA").read_text())


def test_without_grafts_it_is_ours_alone(unpacked: Path) -> None:
    assert notices.add(unpacked, ["MIT"]) == []
    said = metadata(unpacked)
    assert said.get_all("License-Expression") == ["MIT"] and said.get_all("License-File") == ["LICENSE"]
    assert said.get_payload() == "License-File: in the text\n"


def test_licences_of_what_was_grafted(unpacked: Path, tmp_path: Path) -> None:
    purls = ("pkg:deb/debian/libgomp1@12.2.0-14%2Bdeb12u1", "pkg:deb/debian/libgfortran-lost@1")
    graft(unpacked, *purls, libraries=("libgomp-f9a9ad78.so.1.0.0", "libgfortran-59811b6f.so.5"))
    (tmp_path / "doc/libgomp1").mkdir(parents=True)
    (tmp_path / "doc/libgomp1/copyright").write_text("the text is in GPL-3\n")
    (tmp_path / "common").mkdir()
    (tmp_path / "common/GPL-3").write_text("the text\n")
    missing = notices.add(unpacked, ["MIT"], tmp_path / "doc", tmp_path / "common")
    assert missing == ["libgfortran-59811b6f.so.5"]
    folder = unpacked / "x-1.dist-info"
    assert (folder / "licenses/LICENSE-libgomp1").read_text() == "the text is in GPL-3\n"
    assert (folder / "licenses/LICENSE-GPL-3").read_text() == "the text\n"
    said = metadata(unpacked)
    assert said.get_all("License-File") == ["LICENSE", "LICENSE-libgomp1", "LICENSE-GPL-3"]
    assert said.get_all("License-Expression") == [f"MIT AND {GCC}"]
    bom = json.loads((folder / "sboms/auditwheel.cdx.json").read_text())
    assert [row.get("licenses") for row in bom["components"]] == [None, *[[{"expression": GCC}]] * 2]


RPM = "pkg:rpm/almalinux/libgomp@8.5.0-26.el8"


@pytest.mark.parametrize(
    ("purls", "place"),
    [
        pytest.param((RPM,), "doc/libgomp/copyright", id="a package that is not Debian's"),
        pytest.param((), "doc/libgomp1/copyright", id="a bill of materials that names none"),
        pytest.param(("pkg:deb/debian/libgomp1@1",), "nowhere/x", id="no texts"),
        pytest.param(("pkg:deb/debian/libgomp1@1",), "doc/libgomp1/copyright", id="not the GPL's text"),
    ],
)
def test_a_library_whose_texts_are_not_here_is_named(
    purls: tuple[str, ...], place: str, unpacked: Path, tmp_path: Path
) -> None:
    graft(unpacked, *purls, libraries=("libgomp-f9a9ad78.so.1.0.0",))
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text("the text is in GPL-3\n")
    missing = notices.add(unpacked, ["MIT"], tmp_path / "doc", tmp_path / "common")
    assert missing == ["libgomp-f9a9ad78.so.1.0.0"]


def test_without_a_bill_of_materials_the_library_is_named(unpacked: Path, tmp_path: Path) -> None:
    graft(unpacked, libraries=("libgomp-f9a9ad78.so.1.0.0",))
    (unpacked / "x-1.dist-info/sboms/auditwheel.cdx.json").unlink()
    assert notices.add(unpacked, ["MIT"], tmp_path, tmp_path) == ["libgomp-f9a9ad78.so.1.0.0"]
    assert metadata(unpacked).get_all("License-Expression") == [f"MIT AND {GCC}"]


def test_a_library_of_unknown_licence_is_refused(unpacked: Path) -> None:
    graft(unpacked, libraries=("libgomp-1.so.1", "libsecret-2.so.3"))
    with pytest.raises(
        BuildError, match=r"put libsecret-2\.so\.3 into the wheel, and its licence is not known"
    ):
        notices.add(unpacked, ["MIT"])


def test_expressions() -> None:
    rows = grafts.rows(["libquadmath-1.so", "libopenblasp-r0-2.so", "libgfortran-3.so", "libgomp-4.so"])
    said = grafts.expression(["MIT", "Apache-2.0 OR BSL-1.0", "MIT"], rows)
    assert said.split(" AND ") == [
        *("MIT", "(Apache-2.0 OR BSL-1.0)", GCC, "LGPL-2.0-or-later", "LGPL-2.1-or-later"),
        *("BSD-3-Clause", "BSD-2-Clause-Views", "BSD-3-Clause-Open-MPI"),
    ]
    assert is_expression(said) and not is_expression(said.replace("Views", "Visions"))

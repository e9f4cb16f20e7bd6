"""`pyllama devices --explain`: each backend, and what is missing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyllama.builder.compile import backends
from pyllama.cli import explain
from pyllama.native import plugins
from pyllama.native.installed import BuildInfo

pytestmark = pytest.mark.matrix


def explained(command_line: Any, folder: Path, **env: str) -> dict[str, dict[str, Any]]:
    ran = command_line("devices", "--explain", "--json", PYLLAMA_BUILD=str(folder), **env)
    assert ran.returncode == 0, ran.stderr
    return {row["backend"]: row for row in json.loads(ran.stdout)}


def test_every_backend_is_explained(command_line: Any, patched_build: Any) -> None:
    told = explained(command_line, patched_build.folder)
    assert list(told) == list(backends.table())
    assert told["cpu"]["state"] == "used" and told["cpu"]["devices"] == ["CPU"]
    for name, row in told.items():
        assert row["title"] == backends.table()[name].title
        assert row["advice"] or row["state"] == "used", name
    here = [row for row in told.values() if row["state"] == "not built"]
    for row in here:
        command, _, rest = row["advice"].partition(", and set PYLLAMA_BUILD")
        assert command.startswith("pyllama build --pin ") and command.endswith(row["backend"]) and rest


def test_what_is_missing_is_named(command_line: Any, patched_build: Any, tmp_path: Path) -> None:
    """With a PATH on which there is a compiler and nothing else."""
    for name in ("cc", "c++", "as", "ld"):
        found = shutil.which(name)
        if found:
            (tmp_path / name).symlink_to(found)
    told = explained(command_line, patched_build.folder, PATH=str(tmp_path))
    assert told["vulkan"]["state"] == "cannot be built" and "glslc (" in told["vulkan"]["advice"]
    assert told["blas"]["state"] == "cannot be built" and "pkg-config (" in told["blas"]["advice"]


def test_a_cpu_that_does_not_load(command_line: Any, patched_build: Any, tmp_path: Path) -> None:
    folder = tmp_path / "build"
    shutil.copytree(patched_build.folder, folder, ignore=shutil.ignore_patterns("bin"))
    for library in (folder / "lib").glob("libggml-cpu*"):
        library.unlink()
    told = explained(command_line, folder)
    assert told["cpu"]["state"] == "broken" and "no CPU plug-in in" in told["cpu"]["advice"]


def changed(patched_build: Any, folder: Path, **values: object) -> BuildInfo:
    table = json.loads((patched_build.folder / "build.json").read_text())
    return replace(
        BuildInfo(
            **{name: table[name] for name in ("pin", "commit", "key", "build_key", "flavour", "cpu")},
            features=tuple(table["features"]),
            backends=("cpu",),
            plugins=("ggml-cpu",),
            folder=folder,
        ),
        **values,  # type: ignore[arg-type]
    )


def test_the_command_keeps_what_the_build_has(patched_build: Any, tmp_path: Path) -> None:
    def command(backend: str, *there: str, **values: object) -> str:
        build = changed(patched_build, tmp_path, **values)
        return explain._command(backends.table()[backend], build, there)

    start = f"pyllama build --pin {patched_build.pin}"
    assert command("vulkan") == f"{start} --backend vulkan"
    assert command("vulkan", "rpc", "acme") == f"{start} --backend rpc,vulkan"
    assert command("blas", "rpc", backends=("cpu-all", "rpc")) == f"{start} --backend cpu-all,rpc,blas"
    assert command("cpu-all", "rpc") == f"{start} --backend rpc,cpu-all"
    assert command("rpc", features=()) == f"{start} --none --backend rpc"
    assert command("rpc", features=("view-copy",)) == f"{start} --features view-copy --backend rpc"


def test_a_distribution_that_is_damaged_or_of_another_build(
    patched_build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a row of its own, and what to do is said of that one."""
    monkeypatch.delenv("PYLLAMA_BUILD", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    for backend in ("rpc", "acme"):
        info = tmp_path / f"pyllama_cffi_{backend}-0.1.0.dist-info"
        info.mkdir()
        said = f"Metadata-Version: 2.4\nName: pyllama-cffi-{backend}\nVersion: 0.1.0\n\n"
        (info / "METADATA").write_text(said)
        entry = f"[{plugins.GROUP}]\n{backend} = pyllama_cffi_{backend}:FOLDER\n"
        (info / "entry_points.txt").write_text(entry)
    (tmp_path / "pyllama_cffi_acme.py").write_text("1 / 0\n")
    folder = tmp_path / "pyllama_cffi_rpc"
    folder.mkdir()
    (folder / "__init__.py").write_text("from pathlib import Path\nFOLDER = Path(__file__).parent\n")
    (folder / "libggml-rpc.so").write_bytes(b"")
    identity = json.dumps({"pin": "other", "key": "e" * 64})
    table = {"schema": plugins.SCHEMA, "backend": "rpc", "library": "libggml-rpc.so", "identity": identity}
    (folder / "plugin.json").write_text(json.dumps(table))
    told = {row.backend: row for row in explain.explain(changed(patched_build, patched_build.folder))}
    assert told["cpu"].state == "used"
    assert told["rpc"].state == "broken" and "pyllama-cffi-rpc is of pin other" in told["rpc"].advice
    assert told["acme"].state == "broken" and "pyllama-cffi-acme is damaged" in told["acme"].advice


def test_in_words(command_line: Any, patched_build: Any) -> None:
    ran = command_line("devices", "--explain", PYLLAMA_BUILD=str(patched_build.folder))
    assert ran.returncode == 0 and "cpu      used (CPU): " in ran.stdout
    assert "not for this system" in ran.stdout

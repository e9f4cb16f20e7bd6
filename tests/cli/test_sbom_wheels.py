"""What installed wheels add to the SBOM: real metadata on the path, real parts, a real build's provenance."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from real_builds import TestBuild

from pyllama.builder import provenance
from pyllama.cli import wheels
from pyllama.cli.bom import make_bom
from pyllama.cli.distributions import closure
from pyllama.errors import LoadError
from pyllama.extras import DISTRIBUTION
from pyllama.native import plugins
from pyllama.native.installed import BuildInfo, read_json

GCC = "GPL-3.0-or-later WITH GCC-exception-3.1"
ORIGIN = "pkg:deb/debian/libgomp1@12.2.0-14"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PYLLAMA_BUILD", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    return tmp_path / "site"


@pytest.fixture
def build(patched_build: TestBuild, site: Path) -> BuildInfo:
    """The build as if it were installed there."""
    table = read_json(patched_build.folder)
    (site / "pyllama").mkdir(parents=True)
    (site / "pyllama/_build").symlink_to(patched_build.folder)
    names = ("pin", "commit", "key", "build_key", "flavour", "cpu")
    lists = {name: tuple(table[name]) for name in ("features", "backends", "plugins")}
    return BuildInfo(**{name: table[name] for name in names}, **lists, folder=site / "pyllama/_build")


@pytest.fixture
def put(site: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a distribution as pip would, with a grafted library when it is named."""

    def install(name: str, backend: str, license: str, grafted: str, *lines: str) -> None:
        package = name.replace("-", "_")
        monkeypatch.delitem(sys.modules, package, raising=False)
        files = {
            f"{package}-1.dist-info/METADATA": f"Metadata-Version: 2.4\nName: {name}\nVersion: 1\n"
            f"License-Expression: {license}\n{''.join(f'{line}{chr(10)}' for line in lines)}\n",
        }
        if backend:
            table = {"schema": plugins.SCHEMA, "backend": backend, "library": f"libggml-{backend}.so"}
            identity = json.dumps({"pin": "2026-10", "key": "a" * 64})
            entry = f"[{plugins.GROUP}]\n{backend} = {package}:FOLDER\n"
            files |= {
                f"{package}-1.dist-info/entry_points.txt": entry,
                f"{package}/__init__.py": "from pathlib import Path\nFOLDER = Path(__file__).parent\n",
                f"{package}/plugin.json": json.dumps({**table, "identity": identity}),
                f"{package}/libggml-{backend}.so": f"\x7fELF {backend}",
            }
        if grafted:
            rows = [
                {"name": package, "purl": f"pkg:pypi/{package}@1"},
                {
                    "name": "libgomp1",
                    "version": "12.2.0-14",
                    "purl": ORIGIN,
                    "licenses": [{"expression": GCC}],
                },
            ]
            files |= {
                f"{package}.libs/{grafted}": f"\x7fELF {grafted} of {name}",
                f"{package}-1.dist-info/sboms/auditwheel.cdx.json": json.dumps({"components": rows}),
            }
        for file, text in files.items():
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            (site / file).write_text(text)
        (site / f"{package}-1.dist-info/RECORD").write_text("".join(f"{file},,\n" for file in files))

    return install


def document(build: BuildInfo) -> dict[str, Any]:
    ours = wheels.installed(build, DISTRIBUTION)
    python = closure(DISTRIBUTION)
    for wheel in ours:
        python |= {name: row for name, row in closure(wheel.distribution).items() if name not in python}
    bom = make_bom(build.folder, read_json(build.folder), provenance.read(build.folder), python, ours)
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    table: dict[str, Any] = json.loads(text)
    return table


def test_wheels_are_in_it(build: BuildInfo, put: Callable[..., None], site: Path) -> None:
    put(DISTRIBUTION, "", f"MIT AND {GCC}", "libgomp-1.so")
    put(
        "pyllama-cffi-abacus", "abacus", f"MIT AND {GCC}", "libgomp-2.so", f"Requires-Dist: {DISTRIBUTION}==1"
    )
    put("pyllama-cffi-slide", "slide", "MIT", "", f"Requires-Dist: {DISTRIBUTION}==1")
    table = document(build)
    top = table["metadata"]["component"]
    assert top["licenses"] == [{"expression": f"MIT AND {GCC}"}]
    said = [row["value"] for row in top["properties"] if row["name"] == "pyllama:backend"]
    assert {"abacus", "slide"} <= set(said)

    parts = {row["bom-ref"]: row for row in table["components"]}
    for name in ("pyllama_cffi_abacus/libggml-abacus.so", "pyllama_cffi_abacus.libs/libgomp-2.so"):
        content = hashlib.sha256((site / name).read_bytes()).hexdigest()
        assert parts[name]["hashes"] == [{"alg": "SHA-256", "content": content}]
    abacus = parts["python:pyllama-cffi-abacus"]
    assert abacus["licenses"] == [{"expression": f"MIT AND {GCC}"}] and abacus["version"] == "1"
    assert parts[f"pyllama-cffi-abacus:{ORIGIN}"]["licenses"] == [{"expression": GCC}]
    assert str(site) not in json.dumps(table)

    edges = {row["ref"]: set(row.get("dependsOn", ())) for row in table["dependencies"]}
    assert set(edges) == {*parts, DISTRIBUTION}
    assert {"python:pyllama-cffi-abacus", "python:pyllama-cffi-slide"} <= edges[DISTRIBUTION]
    assert edges["python:pyllama-cffi-slide"] == {"pyllama_cffi_slide/libggml-slide.so"}
    assert edges["pyllama_cffi_abacus/libggml-abacus.so"] == {
        *("lib/libggml-base.so", "pyllama_cffi_abacus.libs/libgomp-2.so"),
    }
    assert {"pyllama_cffi.libs/libgomp-1.so", f"{DISTRIBUTION}:{ORIGIN}"} <= edges[DISTRIBUTION]


def test_what_a_library_of_the_build_needs_may_be_grafted(
    build: BuildInfo, put: Callable[..., None], site: Path
) -> None:
    """auditwheel renames it, and the loader no longer asks the system for it."""
    put(DISTRIBUTION, "", f"MIT AND {GCC}", "libgomp.so.1")
    parts = {row["bom-ref"]: row for row in document(build)["components"]}
    cpu = parts["lib/libggml-cpu.so"]["properties"]
    assert "libgomp.so.1" not in [row["value"] for row in cpu if row["name"] == "pyllama:needs-of-system"]
    edges = {row["ref"]: row.get("dependsOn", ()) for row in document(build)["dependencies"]}
    assert "pyllama_cffi.libs/libgomp.so.1" in edges["lib/libggml-cpu.so"]


def test_another_build_than_the_installed_one(
    build: BuildInfo, put: Callable[..., None], monkeypatch: pytest.MonkeyPatch, patched_build: TestBuild
) -> None:
    put(DISTRIBUTION, "", f"MIT AND {GCC}", "libgomp-1.so")
    put("pyllama-cffi-abacus", "abacus", "MIT", "")
    assert [wheel.backend for wheel in wheels.installed(build, DISTRIBUTION)] == ["", "abacus"]
    monkeypatch.setenv("PYLLAMA_BUILD", "/elsewhere")
    other = replace(build, folder=patched_build.folder.parent)
    assert wheels.installed(other, DISTRIBUTION) == []


def test_a_damaged_bill_of_materials_is_one_sentence(
    build: BuildInfo, put: Callable[..., None], site: Path
) -> None:
    put(DISTRIBUTION, "", "MIT", "libgomp-1.so")
    bom = site / "pyllama_cffi-1.dist-info/sboms/auditwheel.cdx.json"
    for text in ("{", "[]", '{"components": [{}]}'):
        bom.write_text(text)
        with pytest.raises(LoadError, match=r"auditwheel\.cdx\.json cannot be read .* again"):
            wheels.installed(build, DISTRIBUTION)

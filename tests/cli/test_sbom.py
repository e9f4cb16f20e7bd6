"""`pyllama info --sbom`: valid CycloneDX, true of the build, the same twice, and clear errors."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from real_builds import SUFFIX, TestBuild

from pyllama import extras
from pyllama.builder import project
from pyllama.builder.fetch.pristine import fetch
from pyllama.builder.paths import Paths
from pyllama.builder.pins import Lock, Pin
from pyllama.builder.stack.features import Feature
from pyllama.builder.tree import TreeStore
from pyllama.cli.distributions import closure

pytestmark = pytest.mark.matrix


def sbom(command_line: Any, build: TestBuild | Path, **env: str) -> str:
    folder = build if isinstance(build, Path) else build.folder
    ran = command_line("info", "--sbom", PYLLAMA_BUILD=str(folder), **env)
    assert ran.returncode == 0, ran.stderr
    text: str = ran.stdout
    return text


def applied(paths: Paths, pin: Pin) -> list[Feature]:
    """The features that change the pin's tree; upstream has the others there."""
    return [one for one in project.load(paths).select(pin, "all") if one.at(pin.name).kind == "hooks"]


@pytest.fixture(scope="module")
def text(command_line: Any, patched_build: TestBuild) -> str:
    return sbom(command_line, patched_build)


@pytest.fixture(scope="module")
def table(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def part(table: dict[str, Any], ref: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in table["components"] if row["bom-ref"] == ref)
    return found


def said(row: dict[str, Any], name: str) -> list[str]:
    return [one["value"] for one in row.get("properties", ()) if one["name"] == f"pyllama:{name}"]


def test_it_is_valid(text: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    read: Any = Bom.from_json(json.loads(text))  # type: ignore[attr-defined]
    assert read.metadata.component.name == "pyllama-cffi"


def test_the_validator_finds_faults(table: dict[str, Any]) -> None:
    wrong = {**table, "components": [{"type": "nonsense", "name": "x"}]}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(wrong)) is not None


def test_upstream_is_the_pin(table: dict[str, Any], lock: Lock, pin: str | None) -> None:
    row, at = part(table, "llama.cpp"), lock.pin(pin)
    assert row["purl"] == f"pkg:github/ggml-org/llama.cpp@{at.commit}"
    assert row["version"] == at.commit and said(row, "pin") == [at.name]
    assert said(row, "tree:pristine") == [at.tree]
    assert row["pedigree"]["commits"][0]["uid"] == at.commit
    assert "Permission is hereby granted" in row["licenses"][0]["license"]["text"]["content"]


def test_the_patches_in_it_turn_upstream_into_the_tree_that_it_names(
    table: dict[str, Any], lock: Lock, pin: str | None, installed_paths: Paths, tmp_path: Path
) -> None:
    """As somebody would who has only the SBOM and upstream's revision."""
    row, at = part(table, "llama.cpp"), lock.pin(pin)
    fetch(at, installed_paths)
    store = TreeStore(installed_paths.objects)
    work = tmp_path / "llama.cpp"
    store.checkout(at.tree, work)
    subprocess.run(["git", "init", "-q"], cwd=work, check=True)
    patches = sorted(row["pedigree"]["patches"], key=lambda one: one["diff"]["url"])
    names = [one.name for one in applied(installed_paths, at)]
    assert "view-copy" in names
    assert [one["diff"]["url"].partition("-")[2] for one in patches] == [f"{name}.patch" for name in names]
    for patch in patches:
        diff = patch["diff"]["text"]["content"].encode()
        subprocess.run(["git", "apply", "-"], cwd=work, check=True, input=diff)
        named = part(table, patch["diff"]["url"])
        assert named["hashes"][0]["content"] == hashlib.sha256(diff).hexdigest()
        shutil.rmtree(work / ".git")
        assert [store.add(work)] == said(named, "tree:patched")
        subprocess.run(["git", "init", "-q"], cwd=work, check=True)
    assert said(row, "tree:patched") == said(named, "tree:patched")


def test_every_library_is_there_with_its_hash(table: dict[str, Any], patched_build: TestBuild) -> None:
    folder = patched_build.folder
    libraries = {path.relative_to(folder).as_posix() for path in (folder / "lib").iterdir()}
    assert {row["bom-ref"] for row in table["components"] if row["bom-ref"].startswith("lib/")} == libraries
    for name in [*libraries, "python/_pyllama.abi3.so"]:
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert part(table, name)["hashes"] == [{"alg": "SHA-256", "content": digest}]


def test_everything_hangs_together(table: dict[str, Any]) -> None:
    """Each part can be reached from pyllama, and each reference leads somewhere."""
    edges = {row["ref"]: row.get("dependsOn", []) for row in table["dependencies"]}
    known = {row["bom-ref"] for row in table["components"]} | {"pyllama-cffi"}
    assert set(edges) == known
    reached, wanted = set(), ["pyllama-cffi"]
    while wanted:
        ref = wanted.pop()
        if ref not in reached:
            reached.add(ref)
            wanted += edges[ref]
    assert reached == known


def test_origins_are_links(
    table: dict[str, Any], lock: Lock, pin: str | None, installed_paths: Paths
) -> None:
    patches = part(table, "llama.cpp")["pedigree"]["patches"]
    issues = [issue for patch in patches for issue in patch.get("resolves", ())]
    links = [issue["references"] for issue in issues]
    assert ["https://github.com/ggml-org/llama.cpp/issues/25584"] in links
    origins = [origin for one in applied(installed_paths, lock.pin(pin)) for origin in one.origin]
    places = [
        (repository or "ggml-org/llama.cpp", n) for repository, _, n in (o.partition("#") for o in origins)
    ]
    wanted = [[f"https://github.com/{repository}/issues/{number}"] for repository, number in places]
    assert sorted(links) == sorted(wanted)


def test_stock_has_no_patches(command_line: Any, stock_build: TestBuild) -> None:
    row = part(json.loads(sbom(command_line, stock_build)), "llama.cpp")
    assert "patches" not in row["pedigree"]
    assert said(row, "tree:patched") == said(row, "tree:pristine") and not said(row, "feature")


def test_the_same_build_gives_the_same_bytes(command_line: Any, patched_build: TestBuild, text: str) -> None:
    assert sbom(command_line, patched_build, PYTHONHASHSEED="1") == text
    assert str(patched_build.folder) not in text and str(Path.home()) not in text
    assert "timestamp" not in json.loads(text)["metadata"]


def test_time_is_said_when_it_is_given(command_line: Any, patched_build: TestBuild, text: str) -> None:
    dated = json.loads(sbom(command_line, patched_build, SOURCE_DATE_EPOCH="1790000000"))
    assert dated["metadata"]["timestamp"].startswith("2026-09-21T")
    assert dated["serialNumber"] != json.loads(text)["serialNumber"]
    ran = command_line(
        "info", "--sbom", PYLLAMA_BUILD=str(patched_build.folder), SOURCE_DATE_EPOCH="yesterday"
    )
    assert ran.returncode == 2 and "SOURCE_DATE_EPOCH=yesterday" in ran.stderr


def test_python_dependencies_are_those_that_are_installed() -> None:
    found = closure("nox") or closure("pytest")
    first, *rest = found
    assert found[first].version and set(found[first].requires) <= set(found)
    assert {"packaging", "pluggy"} & set(rest)
    assert closure("no-such-distribution") == {}


def test_to_a_file(command_line: Any, patched_build: TestBuild, text: str, tmp_path: Path) -> None:
    out = tmp_path / "sbom.json"
    ran = command_line("info", "--sbom", "-o", out, PYLLAMA_BUILD=str(patched_build.folder))
    assert ran.returncode == 0 and ran.stdout == "" and out.read_text() == text
    nowhere = tmp_path / "none" / "sbom.json"
    ran = command_line("info", "--sbom", "-o", nowhere, PYLLAMA_BUILD=str(patched_build.folder))
    assert ran.returncode != 0 and str(nowhere) in ran.stderr and "Traceback" not in ran.stderr
    ran = command_line("info", "-o", out, PYLLAMA_BUILD=str(patched_build.folder))
    assert ran.returncode == 2 and "--sbom" in ran.stderr


@pytest.mark.parametrize("missing", ["cyclonedx", "packageurl", "packaging"])
def test_a_missing_library_is_one_sentence(missing: str, patched_build: TestBuild) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None\nfrom pyllama.cli.main import main\nsys.exit(main())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "info", "--sbom"],
        env={**os.environ, "PYLLAMA_BUILD": str(patched_build.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1 and ran.stdout == ""
    assert extras.install("sbom") in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        ("cut", "provenance.json"),
        ("cut", "patches/0001-view-copy.patch"),
        ("gone", "provenance.json"),
        ("gone", "patches/0001-view-copy.patch"),
        ("gone", f"lib/libllama{SUFFIX}"),
    ],
)
def test_a_damaged_build_is_one_sentence(
    damage: str, name: str, command_line: Any, patched_build: TestBuild, tmp_path: Path
) -> None:
    copy = tmp_path / "build"
    shutil.copytree(patched_build.folder, copy)
    if damage == "gone":
        (copy / name).unlink()
    else:
        (copy / name).write_bytes((copy / name).read_bytes()[:100])
    ran = command_line("info", "--sbom", PYLLAMA_BUILD=str(copy))
    assert ran.returncode == 1 and ran.stdout == ""
    assert Path(name).name in ran.stderr and "again" in ran.stderr and "Traceback" not in ran.stderr

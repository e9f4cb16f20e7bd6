"""Copies of finished builds: what they hold, and what they may replace."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from real_builds import TestBuild

from pyllama.builder import finished, provenance
from pyllama.builder.compile.toolchain import find_compilers
from pyllama.builder.exporting import export
from pyllama.builder.finished import Build
from pyllama.errors import UsageError


def make(folder: Path) -> Build:
    out = folder.parent / f"{folder.name}.new"
    (out / "lib").mkdir(parents=True)
    (out / "lib" / "libllama.so").write_text("x")
    finished.finish(out, {"pin": "p"}, folder)
    return Build(folder, finished.read(folder), False)


def held(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


def test_a_copy_holds_what_was_built_and_not_what_was_added(tmp_path: Path) -> None:
    done = make(tmp_path / "b")
    product = tmp_path / "libmtmd.so"
    product.write_text("added")
    finished.add(product, done.folder)
    assert finished.files_of(done.folder, "mtmd") == ["lib/libmtmd.so"]
    export(done, tmp_path / "out")
    assert held(tmp_path / "out") == {"build.json", "lib/libllama.so"}
    export(done, tmp_path / "out")  # a whole build may be replaced


@pytest.mark.parametrize("foreign", ["thesis.txt", "lib/thesis.txt"])
def test_a_build_with_somebodys_file_in_it_is_left_alone(tmp_path: Path, foreign: str) -> None:
    done = make(tmp_path / "b")
    export(done, tmp_path / "out")
    (tmp_path / "out" / foreign).write_text("mine")
    with pytest.raises(UsageError, match="something that is not a build"):
        export(done, tmp_path / "out")
    assert (tmp_path / "out" / foreign).read_text() == "mine"


def test_a_json_file_does_not_make_a_build(tmp_path: Path) -> None:
    done = make(tmp_path / "b")
    out = tmp_path / "out"
    out.mkdir()
    (out / "build.json").write_text(json.dumps({}))
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError):
        export(done, out)
    with pytest.raises(UsageError):
        export(done, out / "thesis.txt")  # a file
    assert (out / "thesis.txt").read_text() == "mine"


def test_a_link_is_followed(tmp_path: Path) -> None:
    done = make(tmp_path / "b")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    export(done, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and finished.is_complete(tmp_path / "real")


# --- with upstream's programs and libraries ---


@pytest.fixture
def with_targets(stock_build: TestBuild, tmp_path: Path) -> Build:
    """A copy of a real build with a program, a library that it needs through another, and one for nobody."""
    info = finished.read(stock_build.folder)
    export(Build(stock_build.folder, info, True), tmp_path / "build")
    build = tmp_path / "build"
    for name, needs in (("common", ()), ("mtmd", ("common",)), ("other", ())):
        link(tmp_path / f"lib{name}.so", build, *needs)
        finished.add(tmp_path / f"lib{name}.so", build)
    for name in ("llama-see", "llama-other"):
        link(tmp_path / name, build, "mtmd", "llama")
        finished.add(tmp_path / name, build)
    provenance.add(build, stock_build.tree)
    return Build(build, info, True)


def link(out: Path, build: Path, *needs: str) -> None:
    text = "int main(void) { return 0; }" if not out.suffix else ""
    shared = ["-shared", "-fPIC"] if out.suffix else ["-Wl,--allow-shlib-undefined"]
    command = [find_compilers().cc, *shared, "-x", "c", "-", "-o", str(out), f"-L{build / 'lib'}"]
    command += ["-Wl,--no-as-needed", *(f"-l{name}" for name in needs)]
    subprocess.run(command, input=text, text=True, check=True)


@pytest.mark.matrix
def test_a_copy_holds_what_is_asked_for_and_what_that_needs(with_targets: Build, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(with_targets, out, ["llama-see"])
    added = held(out) - {*with_targets.info["files"], "build.json"}
    assert {"bin/llama-see", "lib/libmtmd.so", "lib/libcommon.so", "provenance-added.json"} <= added
    assert not [name for name in added if "other" in name]
    assert (out / "bin" / "libggml-cpu.so").is_symlink()  # stock programs look there
    assert finished.is_complete(out) and finished.read(out)["files"].keys() == held(out) - {"build.json"}
    told = {row.file for row in provenance.read(out).libraries}
    assert {"lib/libmtmd.so", "lib/libcommon.so"} <= told and "lib/libother.so" not in told
    assert {path.relative_to(out).as_posix() for path in finished.libraries(out)} <= told


@pytest.mark.matrix
def test_the_choice_of_a_copy_may_change(with_targets: Build, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = None
    for targets in (["mtmd"], [], ["mtmd"]):
        export(with_targets, out, targets)  # a whole build may be replaced, whatever it holds
        assert (out / "lib" / "libmtmd.so").exists() == bool(targets) and not (out / "bin").exists()
        manifest = (out / "build.json").read_text()
        assert before in (None, manifest) if targets else manifest != before
        before = manifest if targets else before
    export(with_targets, out)
    assert (out / "build.json").read_text() == (with_targets.folder / "build.json").read_text()


@pytest.mark.matrix
def test_what_has_no_file_cannot_be_exported(with_targets: Build, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all gives no program or library of that name"):
        export(with_targets, tmp_path / "out", ["llama-see", "all"])
    assert not (tmp_path / "out").exists()


@pytest.mark.matrix
def test_where_needs_cannot_be_read_every_library_goes_along(
    with_targets: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another kind than ELF, as on macOS."""
    monkeypatch.setattr("pyllama.builder.verify.elf.read", lambda path: None)
    export(with_targets, tmp_path / "out", ["llama-see"])
    added = held(tmp_path / "out")
    assert {"lib/libmtmd.so", "lib/libcommon.so", "lib/libother.so", "bin/llama-see"} <= added
    assert "bin/llama-other" not in added

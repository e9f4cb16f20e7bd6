"""Finished builds: what is whole, what may be replaced, what is added later."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pyllama.builder import finished
from pyllama.builder.finished import Build


def make(folder: Path, text: str = "x") -> Build:
    out = folder.parent / f"{folder.name}.new"
    (out / "lib").mkdir(parents=True)
    (out / "lib" / "libllama.so").write_text(text)
    finished.finish(out, {"pin": "p"}, folder)
    return Build(folder, finished.read(folder), False)


def test_finish_replaces(tmp_path: Path) -> None:
    make(tmp_path / "b", "old")
    done = make(tmp_path / "b", "newer")
    assert done.info["files"] == {"lib/libllama.so": 5}
    assert finished.is_complete(done.folder)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {}}', '{"files": 3}', '{"files": {"a": 1}}'])
def test_a_damaged_manifest_is_no_build(tmp_path: Path, text: str) -> None:
    (tmp_path / "build.json").write_text(text)
    assert not finished.is_complete(tmp_path)


def test_a_failing_rename_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = make(tmp_path / "b", "good")
    rename, calls = os.rename, []

    def failing(source: str, target: str) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError("disk")
        rename(source, target)

    out = tmp_path / "new"
    (out / "lib").mkdir(parents=True)
    (out / "lib" / "x").write_text("x")
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="disk"):
        finished.finish(out, {}, done.folder)
    assert (done.folder / "lib" / "libllama.so").read_text() == "good"


@pytest.mark.parametrize("name", ["mtmd", "common", "llama-simple"])
def test_leftovers_are_no_targets(tmp_path: Path, name: str) -> None:
    for place in ("lib", "bin"):
        (tmp_path / place).mkdir()
        (tmp_path / place / f".lib{name}.so.new").write_text("half")
        (tmp_path / place / f"libx{name}.so").write_text("other")
    assert not finished.files_of(tmp_path, name)


def with_plugins(folder: Path, *features: str) -> Path:
    """A build with a core, two plug-ins of one backend, and a program."""
    for name in ("lib/libggml.so", "lib/libggml-cpu-a.so", "lib/libggml-cpu-b.so", "bin/llama-simple"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    finished.link_plugins(folder, {"features": features, "plugins": ["ggml-cpu-a", "ggml-cpu-b"]})
    return folder / "bin"


@pytest.mark.parametrize("system", ["linux", "win32"])
def test_programs_have_the_plug_ins_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    for _ in range(2):  # the second time nothing is left to do
        programs = with_plugins(tmp_path)
        names = {path.name for path in programs.iterdir()}
        assert names == {"llama-simple", "libggml-cpu-a.so", "libggml-cpu-b.so"}
        assert (programs / "libggml-cpu-a.so").read_text() == "lib/libggml-cpu-a.so"
        assert (programs / "libggml-cpu-a.so").is_symlink() == (system == "linux")


def test_libraries_that_locate_themselves_need_no_links(tmp_path: Path) -> None:
    assert [path.name for path in with_plugins(tmp_path, "self-locating").iterdir()] == ["llama-simple"]


def test_without_programs_there_are_no_links(tmp_path: Path) -> None:
    finished.link_plugins(tmp_path, {"features": [], "plugins": ["ggml-cpu"]})
    assert not (tmp_path / "bin").exists()

"""Finding tools, running Ninja, and the sentences when something is missing."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from pyllama import extras
from pyllama.builder.compile import ninja, toolchain
from pyllama.builder.progress import Stage
from pyllama.errors import BuildError


class Recorder(Stage):
    def __init__(self) -> None:
        super().__init__(None, None)
        self.seen: list[tuple[float, float | None, str]] = []

    def update(self, done: float, total: float | None = None, text: str = "") -> None:
        self.seen.append((done, total, text))


@pytest.fixture
def nothing_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("nothing_on_path")
def test_no_compiler() -> None:
    with pytest.raises(BuildError, match=r"no C compiler was found: install gcc and g\+\+"):
        toolchain.find_compilers()


@pytest.mark.usefixtures("nothing_on_path")
def test_a_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(BuildError, match="CC=no-such-compiler is not a program"):
        toolchain.find_compilers()


@pytest.mark.parametrize("modules", [("elftools",), ("cffi", "pycparser"), ("cmake", "ninja", "elftools")])
def test_all_that_is_missing_is_said_at_once(
    modules: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the one command that gets it."""
    for name, variable in (("cc", "CC"), ("c++", "CXX")):
        monkeypatch.setenv(variable, os.environ.get(variable) or shutil.which(name) or name)
    assert toolchain.find().cmake
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    if "cmake" in modules:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    names = ", ".join({"elftools": "pyelftools"}.get(module, module) for module in modules)
    with pytest.raises(BuildError, match=re.escape(f"building needs {names}: {extras.install('build')}")):
        toolchain.find()


def test_a_compiler_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    with pytest.raises(BuildError, match="install a working compiler"):
        toolchain.find_compilers()


def test_cc_and_gcc_are_one_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setenv("CXX", "c++")
    first = toolchain.find_compilers().identity
    monkeypatch.setenv("CC", "gcc")
    monkeypatch.setenv("CXX", "g++")
    assert toolchain.find_compilers().identity == first
    assert "x86_64" in first or "aarch64" in first or sys.platform != "linux"


def say(text: str, code: int = 0) -> list[str]:
    return [sys.executable, "-c", f"import sys; print({text!r}); sys.exit({code})"]


def test_progress(tmp_path: Path) -> None:
    stage = Recorder()
    ninja.run(
        say("[1/4] Building C object a/b.c.o\nnoise\n[4/4] Linking libx.so"), tmp_path / "log", stage, "it"
    )
    assert stage.seen == [(1, 4, "b.c.o"), (4, 4, "libx.so")]
    assert "noise" in (tmp_path / "log").read_text()


def test_failure_names_the_first_error_and_the_log(tmp_path: Path) -> None:
    words = "[1/2] x\nFAILED: x\na.c:1:2: error: one\na.c:2:2: error: two"
    with pytest.raises(BuildError, match=rf"compiling failed: a\.c:1:2: error: one .*{tmp_path / 'log'}"):
        ninja.run(say(words, 1), tmp_path / "log", Recorder(), "compiling")


def test_git_finds_no_repository_around_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    code = "import os; print(os.environ['GIT_DIR'])"
    ninja.run([sys.executable, "-c", code], tmp_path / "log", Recorder(), "it")
    assert (tmp_path / "log").read_text().strip() == "/nonexistent"


def test_cmakes_reason_is_on_the_next_line(tmp_path: Path) -> None:
    words = "CMake Error at CMakeLists.txt:3 (message):\n\n  no such thing\n\nmore"
    with pytest.raises(BuildError, match=r"CMakeLists\.txt:3 \(message\): no such thing \("):
        ninja.run(say(words, 1), tmp_path / "log", Recorder(), "it")


def test_failure_without_a_word(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="it failed: it ended with code 3"):
        ninja.run(say("[1/1] \nnothing", 3), tmp_path / "log", Recorder(), "it")

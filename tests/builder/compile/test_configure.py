"""CMake over a real tree: in folders with odd names, after an interruption, and with another tool."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pyllama.builder.compile import flags, ninja, toolchain
from pyllama.builder.compile.backends import Need
from pyllama.builder.compile.configure import configured
from pyllama.builder.compile.toolchain import Toolchain
from pyllama.builder.paths import Paths, locate
from pyllama.builder.plan import Plan, make_plan
from pyllama.builder.progress import Reporter, Stage
from pyllama.builder.stack.apply import PatchedTree, apply
from pyllama.builder.tree import TreeStore
from pyllama.errors import BuildError

pytestmark = pytest.mark.matrix

QUIET = Reporter(quiet=True)
OBJECT = "ggml/src/CMakeFiles/ggml-base.dir/ggml-alloc.c.o"  # holds __FILE__
PLUGIN_OBJECT = "ggml/src/ggml-rpc/CMakeFiles/ggml-rpc.dir/ggml-rpc.cpp.o"


class Work:
    """A tree of the pin in a folder whose name holds spaces, to be configured and compiled."""

    def __init__(self, folder: Path, pin: str | None) -> None:
        self.paths: Paths = replace(locate(), build=folder / "the folder of trees")
        self.plan: Plan = make_plan(self.paths, pin=pin, backends=["rpc"])
        self.tools: Toolchain = toolchain.find()
        store = TreeStore(locate().objects)
        at = self.plan.pin
        self.tree: PatchedTree = apply(at.name, at.tree, self.plan.features, self.paths, store, QUIET)

    def configure(self) -> Path:
        """Configure and return the compilation folder."""
        with configured(self.tree, self.plan, self.paths, self.tools, "test", QUIET) as made:
            return made.folder

    def compile(self, target: str) -> Path:
        """Compile one target and return its file."""
        folder = self.configure()
        command = [self.tools.ninja, "-C", str(folder), target]
        ninja.run(command, folder / "log", Stage(None, None), "compiling")
        return folder / target


@pytest.fixture(scope="module")
def work(pin: str | None, tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(tmp_path_factory.mktemp("configure") / "a b", pin)


def test_a_folder_with_spaces(work: Work) -> None:
    data = work.compile(OBJECT).read_bytes()
    assert b"./ggml/src/ggml-alloc.c" in data and b"folder of trees" not in data


def test_what_was_compiled_outlives_a_failed_configuration(work: Work) -> None:
    """The objects fit as long as compiler and flags do, whatever CMake says to the options."""
    made = work.compile(OBJECT)
    before = made.stat().st_mtime_ns
    lists = work.tree.folder / "CMakeLists.txt"
    text = lists.read_text(encoding="utf-8")
    good = work.plan
    try:
        lists.write_text('message(FATAL_ERROR "not today")\n', encoding="utf-8")
        work.plan = replace(good, backends=good.backends[:1])
        with pytest.raises(BuildError, match="not today"):
            work.configure()
    finally:
        lists.write_text(text, encoding="utf-8")
        work.plan = good
    assert work.compile(OBJECT).stat().st_mtime_ns == before


def test_another_compiler_compiles_anew(work: Work) -> None:
    made = work.compile(OBJECT)
    other = replace(work.tools.compilers, identity="upgraded in place")
    work.tools = replace(work.tools, compilers=other)
    work.configure()
    assert not made.exists()


def test_another_tool_compiles_only_what_is_made_with_it(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ninja does not see that a program which it calls was upgraded."""
    tool = tmp_path / "a-tool"
    tool.write_text("#!/bin/sh\necho 1.0\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    cpu, rpc = work.plan.backends
    rpc = replace(rpc, needs=(Need("program", "a-tool", ()),))
    monkeypatch.setattr(work, "plan", replace(work.plan, backends=(cpu, rpc)))
    plugin, core = work.compile(PLUGIN_OBJECT), work.compile(OBJECT)
    before = plugin.stat().st_mtime_ns, core.stat().st_mtime_ns
    work.configure()
    assert (plugin.stat().st_mtime_ns, core.stat().st_mtime_ns) == before
    tool.write_text("#!/bin/sh\necho 2.0\n")
    work.configure()
    assert not plugin.exists() and core.stat().st_mtime_ns == before[1]
    assert work.compile(PLUGIN_OBJECT).is_file()


# --- quoting ---

AWKWARD = ("a b", "a,b", "it's", 'say "x"', "back`tick", "dollar$HOME", "plain")


@pytest.mark.parametrize("name", AWKWARD)
def test_a_shell_reads_the_words_that_were_written(name: str) -> None:
    words = [f"-ffile-prefix-map=/{name}=.", "-O2"]
    command = ["sh", "-c", f"printf '%s\\n' {flags.line(words, '-DX=1')}"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines() == ["-DX=1", *words]
    assert flags.line([]) == ""


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc on PATH")
@pytest.mark.parametrize("name", ["a b", "a,b", "plain"])
def test_nvcc_reads_them_too(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    source = folder / "file.cu"
    source.write_text("const char *where() { return __FILE__; }\nint main() { return 0; }\n")
    told = flags.nvcc_line(flags.prefix_maps(folder), [str(folder)])
    for out, mode in (("file.o", "-c"), ("program", "")):
        command = f"nvcc {told} {mode} {flags.quoted(str(source))} -o {out}"
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    data = (tmp_path / "file.o").read_bytes()
    assert b"./file.cu" in data and str(folder).encode() not in data

"""Upstream's programs in a build: they compute wherever they are called from."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from native.conftest import Compile, Run
from native.conftest import run_native as run_native
from real_builds import TestBuild
from tiny_models import TinyModels

from pyllama.builder import build as builds
from pyllama.builder import finished
from pyllama.builder.paths import Paths, locate
from pyllama.builder.plan import make_plan
from pyllama.builder.progress import Reporter

QUIET = Reporter(quiet=True)
SIMPLE = "llama-simple"
PROMPT = "Once upon a time"
LIBRARIES = ("llama", "ggml", "ggml-base")


@pytest.fixture
def scratch(
    stock_build: TestBuild, compile_native: Compile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Paths:
    """Folders of our own with a copy of the stock build, whose programs cost no build of the core."""
    source = str(stock_build.tree / "examples" / "simple" / "simple.cpp")
    flags = ["-Wl,-rpath,$ORIGIN/../lib"]
    program = compile_native(stock_build, source, libs=LIBRARIES, flags=flags, rpath=False)

    def add_targets(*args: Any) -> None:
        folder, targets = args[4], args[5]
        for target in targets:
            named = tmp_path / target
            shutil.copy(program, named)
            finished.add(named, folder)

    monkeypatch.setattr(builds, "add_targets", add_targets)
    cache = tmp_path / "cache"
    shutil.copytree(stock_build.folder, cache / "builds" / stock_build.folder.name, symlinks=True)
    (cache / "objects.git").symlink_to(locate().objects)
    return replace(locate(), cache=cache, build=tmp_path / "build", vendor=tmp_path / "vendor")


def with_programs(paths: Paths, pin: str | None, *targets: str, export: Path | None = None) -> Path:
    plan = make_plan(paths, pin=pin, wanted="none", chat=False)
    done = builds.build(paths, plan, QUIET, targets=list(targets), export=export)
    assert done.cached
    return done.folder


def writes(run: Run, program: Path, model: Path, cwd: Path) -> str:
    """What a program writes when it is called from a folder without plug-ins."""
    done = run(program, "-m", model, "-n", 4, PROMPT, cwd=cwd, env={"OMP_THREAD_LIMIT": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    text: str = done.stdout
    return text


@pytest.mark.matrix
def test_a_stock_program_finds_its_backend(
    scratch: Paths, pin: str | None, run_native: Run, tiny_model: TinyModels, tmp_path: Path
) -> None:
    """Upstream looks for plug-ins in the program's own folder, and they lie in `lib/`."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = with_programs(scratch, pin, SIMPLE, export=tmp_path / "out")
    model = tiny_model("attention")  # not quantized: without amx-tiles that would end on CPUs with AMX
    text = writes(run_native, folder / "bin" / SIMPLE, model, elsewhere)
    assert len(text.partition(PROMPT)[2].strip()) > 1

    links = [path for path in (folder / "bin").iterdir() if path.is_symlink()]
    assert links and not any(os.path.isabs(os.readlink(link)) for link in links)
    shutil.rmtree(folder)
    assert writes(run_native, tmp_path / "out" / "bin" / SIMPLE, model, elsewhere) == text


@pytest.mark.matrix
def test_a_program_that_was_added_before_is_cured(scratch: Paths, pin: str | None) -> None:
    """By asking for it again, or for another one."""
    for targets in ((SIMPLE,), (SIMPLE, "llama-other")):
        folder = with_programs(scratch, pin, SIMPLE)
        plugin = folder / "bin" / "libggml-cpu.so"
        plugin.unlink()
        with_programs(scratch, pin, *targets)
        assert plugin.resolve() == folder / "lib" / plugin.name

"""Feature kv-blocks without a model: the pool and the table; see src/kv_blocks.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from .conftest import Build, Compile, Run

pytestmark = pytest.mark.matrix

SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-D_GLIBCXX_ASSERTIONS")


def instrument(compile_native: Compile, build: Build, flags: Sequence[str] = ()) -> Path:
    """The program: the feature's pool and table are all that it needs, no library."""
    source = build.tree / "src/llama-kv-block-pool.cpp"
    if not source.exists():
        pytest.skip("the build under test has no kv-blocks")
    flags = [f"-I{source.parent}", *flags]
    return compile_native(build, "kv_blocks.cpp", libs=[], flags=flags, extra_sources=[source])


@pytest.fixture(scope="session")
def program(compile_native: Compile, patched_build: Build) -> Path:
    return instrument(compile_native, patched_build)


@pytest.fixture(scope="session")
def sanitized(compile_native: Compile, patched_build: Build) -> Path:
    return instrument(compile_native, patched_build, SANITIZE)


def ok(run_native: Run, program: Path, *args: object) -> int:
    """Run it; what it counted. No leak check: it needs ptrace, which containers often forbid."""
    done = run_native(program, *args, env={"ASAN_OPTIONS": "detect_leaks=0"})
    words = done.stdout.split()
    assert done.returncode == 0 and words[0] == "ok", f"exit code {done.returncode}\n{done.stderr[-4000:]}"
    return int(words[1])


def test_pool(program: Path, run_native: Run) -> None:
    """Init, allocate one, all and a batch, deallocate, references, stats, clear; and every wrong number."""
    ok(run_native, program, "pool")


def test_table(program: Path, run_native: Run) -> None:
    """Mapping, append, truncate, clear, copy, copy on write, with the pool's references."""
    ok(run_native, program, "table")


@pytest.mark.parametrize("seed", range(1, 9))
def test_walk(program: Path, run_native: Run, seed: int) -> None:
    """Whatever is done to them, they are what sets and maps say, and nothing that is refused changes them."""
    assert ok(run_native, program, "walk", seed, 20000) == 20000


def test_sanitized(sanitized: Path, run_native: Run) -> None:
    ok(run_native, sanitized, "pool")
    ok(run_native, sanitized, "table")
    for seed in range(9, 13):
        ok(run_native, sanitized, "walk", seed, 5000)

"""Feature device-state without a model: plans of copies, the copies, and blobs; see src/state_copy.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from .conftest import Build, Compile, Run
from .loopback import FLAGS, SOURCES

pytestmark = pytest.mark.matrix

PARTS = ("plan", "copy", "copy-host", "copy-graph", "blob")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def instrument(compile_native: Compile, build: Build, flags: Sequence[str] = ()) -> Path:
    """The program, with the feature's own sources: libllama may hide their symbols."""
    ours = [build.tree / "src" / f"llama-state-{name}.cpp" for name in PARTS]
    if not ours[0].exists():
        pytest.skip("the build under test has no device-state")
    flags = [*FLAGS, f"-I{build.tree / 'src'}", *flags]
    return compile_native(build, "state_copy.cpp", flags=flags, extra_sources=[*ours, *SOURCES])


@pytest.fixture(scope="session")
def program(compile_native: Compile, patched_build: Build) -> Path:
    return instrument(compile_native, patched_build)


@pytest.fixture(scope="session")
def sanitized(compile_native: Compile, patched_build: Build) -> Path:
    return instrument(compile_native, patched_build, SANITIZE)


@pytest.fixture(scope="session")
def cpu(patched_build: Build) -> Path:
    plugin = patched_build.lib_dir / "libggml-cpu.so"
    if not plugin.exists():
        pytest.skip("the build has no libggml-cpu.so (variants only?)")
    return plugin


def ok(run_native: Run, program: Path, *args: object) -> int:
    """Run it; what it counted. No leak check: it needs ptrace, which containers often forbid."""
    done = run_native(program, *args, env={"ASAN_OPTIONS": "detect_leaks=0"})
    words = done.stdout.split()
    assert done.returncode == 0 and words[0] == "ok", f"exit code {done.returncode}\n{done.stderr[-4000:]}"
    return int(words[1])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_plans_and_cuts(program: Path, run_native: Run, seed: int) -> None:
    """Each packed byte is one byte of the ranges, in their order, in whatever portions they are named."""
    assert ok(run_native, program, "plan", seed, 4000) == 4000


def test_few_blocks_for_what_caches_name(program: Path, run_native: Run) -> None:
    ok(run_native, program, "shapes")


def test_blobs(program: Path, run_native: Run) -> None:
    """Truncated anywhere, any bit flipped, hostile lengths: refused."""
    assert ok(run_native, program, "blob") > 5000


@pytest.mark.parametrize("seed", [1, 2])
def test_copies_every_way(program: Path, run_native: Run, cpu: Path, seed: int) -> None:
    """Host and device, odd offsets, memory in pieces, devices that refuse: the same bytes, and no others."""
    ok(run_native, program, "copy", cpu, seed, 150)


def test_states_larger_than_caches(program: Path, run_native: Run, cpu: Path) -> None:
    """They are written past the caches, whole lines only."""
    ok(run_native, program, "large", cpu)


def test_each_way_is_what_it_says(program: Path, run_native: Run, cpu: Path) -> None:
    ok(run_native, program, "counts", cpu)


def test_sanitized(sanitized: Path, run_native: Run, cpu: Path) -> None:
    ok(run_native, sanitized, "plan", 4, 500)
    ok(run_native, sanitized, "shapes")
    ok(run_native, sanitized, "blob")
    ok(run_native, sanitized, "copy", cpu, 4, 20)
    ok(run_native, sanitized, "large", cpu)
    ok(run_native, sanitized, "counts", cpu)

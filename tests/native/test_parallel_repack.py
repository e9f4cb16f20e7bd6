"""Feature parallel-repack: what many threads repack is what one does; see src/parallel_repack.cpp."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from .conftest import Build, Compile, Run, plugins

pytestmark = pytest.mark.matrix

FUNCTION = re.compile(r"^template <> int repack<(block_(\w+), (\d+), (\d+)>)", re.M)
ONLY_RISC_V = "1"  # an interleave of one byte is an outer product, with kernels for RISC-V alone


def functions(repack: str) -> list[tuple[str, str, int, int]]:
    """Upstream's functions by its source: block, type, bytes and rows that are interleaved."""
    found = [match.groups() for match in FUNCTION.finditer(repack)]
    return [(f"block_{k}", k.upper(), int(i), int(n)) for _, k, i, n in found if i != ONLY_RISC_V]


def instrument(compile_native: Compile, build: Build, flags: Sequence[str] = ()) -> Path:
    source = build.tree / "ggml/src/ggml-cpu"
    ours = source / "parallel-repack.cpp"
    if not ours.exists():
        pytest.skip("the build under test has no parallel-repack")
    if not (build.lib_dir / "libggml-cpu.so").exists():
        pytest.skip("the build has no libggml-cpu.so (variants only?)")
    types = " ".join(
        f"TYPE({', '.join(map(str, one))})" for one in functions((source / "repack.cpp").read_text())
    )
    defines = [f"-DREPACK_TYPES={types}", "-DGGML_BACKEND_DL", "-DGGML_USE_CPU_REPACK"]
    return compile_native(
        build,
        "parallel_repack.cpp",
        libs=["ggml-cpu", "ggml", "ggml-base"],  # upstream's kernels, which repack.cpp names and nobody calls
        flags=[*defines, f"-I{source}", "-rdynamic", "-w", *flags],
        extra_sources=[source / "repack.cpp", ours],
    )


@pytest.fixture(scope="session")
def program(compile_native: Compile, patched_build: Build) -> Path:
    return instrument(compile_native, patched_build)


@pytest.fixture(scope="session")
def thread_sanitized(compile_native: Compile, patched_build: Build) -> Path:
    return instrument(compile_native, patched_build, ["-fsanitize=thread"])


@pytest.fixture(scope="session")
def memory_sanitized(compile_native: Compile, patched_build: Build) -> Path:
    return instrument(
        compile_native, patched_build, ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    )


def ok(done: Any) -> dict[str, Any]:
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr[-4000:]}"
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_every_function_of_the_source_is_looked_at(patched_build: Build) -> None:
    """The list is taken from the text: these are at every pin."""
    found = functions((patched_build.tree / "ggml/src/ggml-cpu/repack.cpp").read_text())
    assert {
        ("block_q4_0", "Q4_0", 4, 4),
        ("block_q4_0", "Q4_0", 8, 4),
        ("block_q4_0", "Q4_0", 8, 8),
        ("block_q4_K", "Q4_K", 8, 8),
        ("block_q2_K", "Q2_K", 8, 8),
        ("block_iq4_nl", "IQ4_NL", 4, 4),
        ("block_iq4_nl", "IQ4_NL", 8, 8),
    } <= set(found)
    assert len(found) == len(set(found)) == {"2025-08": 7, "2026-05": 16, "2026-10": 18}[patched_build.pin]


def test_same_bytes(program: Path, run_native: Run, patched_build: Build) -> None:
    """Matrices and experts, whole slices and ends, 1 to 16 threads; nothing before and behind is touched."""
    found = ok(run_native(program, "same"))
    assert found["kinds"] == len(functions((patched_build.tree / "ggml/src/ggml-cpu/repack.cpp").read_text()))
    assert found["compared"] == found["kinds"] * 7 * 5


def test_all_threads_work_at_once(program: Path, run_native: Run) -> None:
    """No slice begins before every thread has one; the slices are all rows, each once."""
    ok(run_native(program, "threads"))


def test_refused_as_upstream_does(program: Path, run_native: Run) -> None:
    ok(run_native(program, "refused"))


@pytest.mark.parametrize("startable", [0, 1, 4])
def test_threads_that_cannot_be_started(program: Path, run_native: Run, startable: int) -> None:
    ok(run_native(program, "no-threads", startable))


@pytest.mark.parametrize("what", ["same", "threads", "refused"])
def test_thread_sanitizer(thread_sanitized: Path, run_native: Run, what: str) -> None:
    ok(run_native(thread_sanitized, what))


def test_thread_sanitizer_finds_a_race(thread_sanitized: Path, run_native: Run) -> None:
    done = run_native(thread_sanitized, "race")
    assert done.returncode == 66 and "data race" in done.stderr


@pytest.mark.parametrize("what", ["same", "threads", "refused"])
def test_address_sanitizer(memory_sanitized: Path, run_native: Run, what: str) -> None:
    ok(run_native(memory_sanitized, what, env={"ASAN_OPTIONS": "detect_leaks=0"}))


def test_helgrind(program: Path, run_native: Run) -> None:
    """Another instrument's opinion, which also looks into the C++ library."""
    if not shutil.which("valgrind"):
        pytest.skip("no valgrind")
    done = run_native(Path("valgrind"), "--tool=helgrind", "--error-exitcode=9", "-q", program, "threads")
    assert done.returncode == 0, done.stderr[-4000:]


def test_same_buffers_as_stock(
    program: Path, patched_build: Build, stock_build: Build, compile_native: Compile, run_native: Run
) -> None:
    """The plug-ins as they are loaded, each type that this CPU repacks, with stock's bytes."""
    checked = 0
    for plugin in plugins(patched_build.lib_dir):
        if not plugin.name.startswith("libggml-cpu"):
            continue
        stock = stock_build.lib_dir / plugin.name
        ours = {n: run_native(program, "buffer", plugin, env={"GGML_REPACK_THREADS": n}) for n in ("1", "5")}
        if "does not load" in ours["1"].stderr:
            continue  # a variant for another CPU
        want = ok(run_native(program, "buffer", stock))
        assert want == ok(ours["1"]) == ok(ours["5"]), plugin.name
        assert not want or {"q4_0, 1", "q4_0, 5", "q4_K, 1"} <= set(want)
        checked += len(want)
        print(plugin.name, *want)
    if not checked:
        pytest.skip("no CPU plug-in here repacks anything")

"""Feature kv-blocks: memory that is taken when it is written; src/paged_buffer.cpp and src/kv_pages.cpp."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Build, Compile, Run
from .loopback import FLAGS
from .test_kv_blocks import SANITIZE, ok

pytestmark = [
    pytest.mark.matrix,
    pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which pages are there"),
]

Programs = Callable[..., Path]


@pytest.fixture(scope="session")
def programs(compile_native: Compile, patched_build: Build) -> Programs:
    """`programs("kv_pages", SANITIZE)`; sanitized, it brings the buffer along: else libggml-base has it."""
    buffer = patched_build.tree / "ggml/src/ggml-paged-buffer.cpp"
    if not buffer.exists():
        pytest.skip("the build under test has no kv-blocks")
    ours = {"paged_buffer": [], "kv_pages": [patched_build.tree / "src/llama-kv-pages.cpp"]}

    def program(name: str, flags: tuple[str, ...] = ()) -> Path:
        return compile_native(
            patched_build,
            f"{name}.cpp",
            flags=[*FLAGS, f"-I{patched_build.tree / 'src'}", *flags],
            extra_sources=[*ours[name], *([buffer] if flags else [])],
        )

    return program


def test_buffer(programs: Programs, run_native: Run) -> None:
    """Nothing at creation, pages after writing, back and zero after discard and clear; odd and huge sizes."""
    ok(run_native, programs("paged_buffer"), "buffer")


def test_buffer_computes(programs: Programs, run_native: Run, patched_build: Build) -> None:
    """The CPU takes tensors there."""
    plugin = patched_build.lib_dir / "libggml-cpu.so"
    if not plugin.exists():
        pytest.skip("the build has no libggml-cpu.so (variants only?)")
    ok(run_native, programs("paged_buffer"), "compute", plugin)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_buffer_walk(programs: Programs, run_native: Run, seed: int) -> None:
    """Written and discarded anywhere: page for page what is there, and what it holds."""
    assert ok(run_native, programs("paged_buffer"), "walk", seed, 2000) == 2000


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_cells(programs: Programs, run_native: Run, seed: int) -> None:
    """Rows and columns, streams, every type: what is counted is there, and nothing that nobody uses is."""
    assert ok(run_native, programs("kv_pages"), "walk", seed, 12) == 12


def test_sanitized(programs: Programs, run_native: Run) -> None:
    buffer, pages = programs("paged_buffer", SANITIZE), programs("kv_pages", SANITIZE)
    ok(run_native, buffer, "buffer")
    ok(run_native, buffer, "walk", 5, 500)
    ok(run_native, pages, "walk", 5, 3)

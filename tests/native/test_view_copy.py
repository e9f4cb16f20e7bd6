"""Feature view-copy: copies from and to views that have no buffer of their own, and the allocator's views.

The instrument's "device" is a malloc-backed buffer type that is not host memory; see src/fake_device.h.
"""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import Build, Compile, Run, plugins

pytestmark = pytest.mark.matrix

WHERE = ("host", "device")
SHAPES = ("plain", "view")
COMBINATIONS = list(itertools.product(WHERE, SHAPES, WHERE, SHAPES))
ALLOC_BROKEN = ("big-view", "big-views", "small-big-views", "big-view-big-view", "big-empty")
ALLOC_SERVED = ("big-view-small", "split-view", "outside-first", "outside-only")


def ids(combination: tuple[str, str, str, str]) -> str:
    return "{}-{}-to-{}-{}".format(*combination)


@pytest.fixture(scope="session")
def patched(compile_native: Compile, patched_build: Build) -> Path:
    return compile_native(patched_build, "view_copy.cpp")


@pytest.fixture(scope="session")
def stock(compile_native: Compile, stock_build: Build) -> Path:
    return compile_native(stock_build, "view_copy.cpp")


def ok(done: Any) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    reports = [line for line in done.stdout.splitlines() if line.startswith("{")]  # RPC's server prints too
    counts: dict[str, Any] = json.loads(reports[-1])
    return counts


def aborted(done: Any, pin: str) -> bool:
    """ggml's assertion; at 2025-08 the accessor has none yet and reads through the null pointer."""
    if pin == "2025-08":
        return bool(done.returncode == -signal.SIGSEGV)
    return bool(done.returncode == -signal.SIGABRT and "GGML_ASSERT(buffer) failed" in done.stderr)


@pytest.mark.parametrize("combination", COMBINATIONS, ids=ids)
@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize(
    "flags", [(), ("late",), ("refuse",), ("like-rpc",), ("refuse", "late", "like-rpc")], ids="+".join
)
def test_copy(
    patched: Path, run_native: Run, how: str, combination: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    counts = ok(run_native(patched, "copy", how, *combination, *flags))
    on_device = combination[0] == combination[2] == "device"
    refused = "refuse" in flags
    assert counts["cpy"] == (1 if on_device and not refused else 0)
    assert counts["async"] == (1 if on_device and not refused and how == "async" else 0)
    if on_device and refused:  # staged through the host
        assert (counts["get"], counts["set"]) == (1, 1)


@pytest.mark.parametrize("shape", ["view", "viewview"])
def test_view_of_a_view(patched: Path, run_native: Run, shape: str) -> None:
    ok(run_native(patched, "copy", "sync", "device", "viewview", "device", shape))
    ok(run_native(patched, "copy", "sync", "host", shape, "device", "viewview"))


@pytest.mark.parametrize("combination", COMBINATIONS, ids=ids)
def test_copy_async_on_the_cpu(
    patched: Path, patched_build: Build, run_native: Run, combination: tuple[str, ...]
) -> None:
    cpu = patched_build.lib_dir / "libggml-cpu.so"
    if not cpu.exists():
        pytest.skip("the build has no libggml-cpu.so (variants only?)")
    ok(run_native(patched, "copy", f"async-cpu:{cpu}", *combination))


@pytest.mark.parametrize("shapes", list(itertools.product(SHAPES, SHAPES)), ids="-to-".join)
def test_buffer_copy_tensor(patched: Path, run_native: Run, shapes: tuple[str, str]) -> None:
    assert ok(run_native(patched, "copy", "buffer", "device", shapes[0], "device", shapes[1]))["cpy"] == 1


@pytest.mark.parametrize("edge", ["self", "same-memory", "zero", "const"])
def test_edges(patched: Path, run_native: Run, edge: str) -> None:
    ok(run_native(patched, "edge", edge))


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        ("no-buffer-src", "tensor buffer not set"),
        ("no-buffer-dst", "tensor buffer not set"),
        ("no-data", "tensor not allocated"),
    ],
)
def test_without_memory_it_still_aborts(patched: Path, run_native: Run, edge: str, message: str) -> None:
    done = run_native(patched, "edge", edge)
    assert done.returncode == -signal.SIGABRT
    assert message in done.stderr


@pytest.mark.parametrize("combination", COMBINATIONS, ids=ids)
def test_stock_aborts(
    stock: Path, stock_build: Build, run_native: Run, combination: tuple[str, str, str, str]
) -> None:
    """Upstream reads src->buffer, and dst->buffer unless the source is on the host."""
    src, src_shape, _, dst_shape = combination
    done = run_native(stock, "copy", "sync", *combination)
    if src_shape == "view" or (src == "device" and dst_shape == "view"):
        assert aborted(done, stock_build.pin), (done.returncode, done.stderr)
    else:
        ok(done)


def test_stock_hands_unresolved_views_to_plugins(stock: Path, run_native: Run) -> None:
    """Resolving the is-host checks alone would not do: these read the tensor's own buffer in the plug-in."""
    done = run_native(stock, "copy", "async", "device", "view", "device", "plain")
    assert done.returncode == 3 and "cpy_tensor_async: src->buffer" in done.stderr
    done = run_native(stock, "copy", "buffer", "device", "plain", "device", "view")
    assert done.returncode == 3 and "cpy_tensor: dst->buffer" in done.stderr
    done = run_native(stock, "copy", "sync", "host", "plain", "device", "view", "like-rpc")
    assert done.returncode == 3 and "set_tensor: tensor->buffer" in done.stderr


@pytest.mark.parametrize("case", ALLOC_BROKEN + ALLOC_SERVED)
def test_allocator(patched: Path, run_native: Run, case: str) -> None:
    ok(run_native(patched, "alloc", case))


@pytest.mark.parametrize("case", ALLOC_BROKEN)
def test_stock_allocator_leaves_views(stock: Path, run_native: Run, case: str) -> None:
    done = run_native(stock, "alloc", case)
    assert done.returncode == 3 and "tensors without a buffer" in done.stderr


@pytest.mark.parametrize("case", ALLOC_SERVED)
def test_stock_allocator_serves_the_rest(stock: Path, run_native: Run, case: str) -> None:
    ok(run_native(stock, "alloc", case))


def test_plugins(compile_native: Compile, patched_build: Build, run_native: Run) -> None:
    """The cpy_tensor of each plug-in that is built: every buffer type of every device, and async."""
    program = compile_native(patched_build, "view_copy.cpp", flags=["-DHAVE_RPC"])
    found = plugins(patched_build.lib_dir)
    cpu = next((p for p in found if p.name.startswith("libggml-cpu")), None)
    assert cpu is not None, f"no CPU plug-in in {patched_build.lib_dir}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    copied = 0
    for plugin in found:
        if plugin.name.startswith("libggml-cpu-"):
            continue  # a variant: it may not run here, and its buffers are those of every other
        result = ok(run_native(program, "plugin", plugin, cpu, f"127.0.0.1:{port}"))
        print(plugin.name, result)
        copied += sum(result["tested"].values())
        for name, reason in result["skipped"].items():
            assert "weights only" in reason or "no memory of its own" in reason, (name, reason)
    if copied == 0:
        pytest.skip("no plug-in with a buffer type to copy through")


def test_sanitized(
    compile_native: Compile, patched_build: Build, run_native: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Our header and the two patched files of ggml, linked into the program with ASan and UBSan.

    The program's own definitions come before those of libggml-base.
    """
    if not shutil.which("gcc"):
        pytest.skip("no gcc")
    source = patched_build.tree / "ggml/src"
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    alloc = tmp_path_factory.mktemp("sanitized") / "ggml-alloc.o"
    includes = [f"-I{path}" for path in (*patched_build.include_dirs, source)]
    command = ["gcc", "-O1", "-g", "-D_GNU_SOURCE", "-DGGML_BUILD", *sanitize, *includes]
    subprocess.run([*command, "-c", str(source / "ggml-alloc.c"), "-o", str(alloc)], check=True)
    program = compile_native(
        patched_build,
        "view_copy.cpp",
        flags=[*sanitize, "-DGGML_BUILD", "-w"],
        extra_sources=[source / "ggml-backend.cpp", alloc],
    )
    # no leak check: it needs ptrace, which containers often forbid
    done = run_native(program, "all", env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert done.returncode == 0, done.stderr

"""The loopback device itself: it counts right, keeps the host out, waits for the wait and fails when told."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from cffi import FFI

import pyllama

from .conftest import Build, Compile, Run
from .loopback import FLAGS, SOURCES, Loopback, LoopbackChild, Mode, RemoteLoopback, Stats, declarations
from .sums import PADDED, SIZE, N, Sum, floats, look, put, sums

pytestmark = pytest.mark.matrix

TWO = pytest.mark.parametrize("loopback", [2], indirect=True)


def changed(stats: Stats) -> dict[str, int]:
    """The counts that are not zero."""
    return {name: value for name, value in asdict(stats).items() if value}


def test_python_has_what_the_header_has() -> None:
    header = FFI()
    header.cdef(declarations())
    assert [name for name, _ in header.typeof("struct loopback_counts").fields] == [
        f.name for f in fields(Stats)
    ]
    modes = header.typeof("enum loopback_mode").relements
    assert modes == {f"LOOPBACK_{mode.name}": mode.value for mode in Mode}


def test_it_is_a_gpu_with_memory_of_its_own(loopback: Loopback) -> None:
    found = [device for device in pyllama.devices() if device.backend == "Loopback"]
    assert [(device.name, device.kind) for device in found] == [("Loopback0", "gpu")]
    buft = pyllama.lib.ggml_backend_dev_buffer_type(loopback.device())
    assert not pyllama.lib.ggml_backend_buft_is_host(buft)
    assert pyllama.lib.ggml_backend_buft_get_alignment(buft) == 128
    host = pyllama.lib.ggml_backend_dev_host_buffer_type(loopback.device())
    assert pyllama.lib.ggml_backend_buft_is_host(host)
    cpu = pyllama.lib.ggml_backend_dev_by_type(pyllama.lib.GGML_BACKEND_DEVICE_TYPE_CPU)
    assert pyllama.lib.ggml_backend_dev_supports_buft(loopback.device(), buft)
    assert not pyllama.lib.ggml_backend_dev_supports_buft(
        loopback.device(), pyllama.lib.ggml_backend_dev_buffer_type(cpu)
    )
    assert not pyllama.lib.ggml_backend_dev_supports_buft(cpu, buft)


def test_memory_is_counted(loopback: Loopback) -> None:
    loopback.set(memory=1 << 20, max_size=1 << 19)
    buft = pyllama.lib.ggml_backend_dev_buffer_type(loopback.device())
    assert pyllama.lib.ggml_backend_buft_get_max_size(buft) == 1 << 19
    buffers = [pyllama.lib.ggml_backend_buft_alloc_buffer(buft, size) for size in (1 << 19, 1000)]
    (device,) = [device for device in pyllama.devices() if device.backend == "Loopback"]
    assert (device.memory_total, device.memory_free) == (1 << 20, (1 << 19) - 1000)
    assert pyllama.lib.ggml_backend_buft_alloc_buffer(buft, (1 << 19) - 999) == pyllama.ffi.NULL
    buffers.append(pyllama.lib.ggml_backend_buft_alloc_buffer(buft, (1 << 19) - 1000))
    for buffer in buffers:
        assert (
            buffer != pyllama.ffi.NULL
            and int(pyllama.ffi.cast("uintptr_t", pyllama.lib.ggml_backend_buffer_get_base(buffer))) % 128
            == 0
        )
        pyllama.lib.ggml_backend_buffer_free(buffer)
    assert pyllama.lib.ggml_backend_buft_alloc_buffer(buft, (1 << 19) + 1) == pyllama.ffi.NULL
    expected = {"allocs": 3, "frees": 3, "alloc_bytes": 1 << 20, "free_bytes": 1 << 20, "peak_bytes": 1 << 20}
    assert changed(loopback.stats()) == {**expected, "allocs_failed": 2}


def test_counts_of_a_known_graph(loopback: Loopback) -> None:
    one = Sum(loopback)
    live = {"live": 1, "live_bytes": 3 * PADDED, "peak_bytes": 3 * PADDED}
    assert changed(loopback.stats()) == {"allocs": 1, "alloc_bytes": 3 * PADDED, **live}
    loopback.reset()
    with sums(one):
        put(1.5, one.x)
        data, found = floats(2.0), floats()
        pyllama.lib.ggml_backend_tensor_set_async(one.backend, one.y, data, 0, SIZE)
        assert one.compute() == pyllama.lib.GGML_STATUS_SUCCESS
        pyllama.lib.ggml_backend_tensor_get_async(one.backend, one.z, found, 4, SIZE - 4)
        one.synchronize()
        assert set(found[0 : N - 1]) == {3.5} and found[N - 1] == 0
        assert look(one.z) == 3.5
        crossed = {"sets": 1, "set_bytes": SIZE, "async_sets": 1, "async_set_bytes": SIZE}
        crossed |= {"gets": 1, "get_bytes": SIZE, "async_gets": 1, "async_get_bytes": SIZE - 4}
        assert changed(loopback.stats()) == {
            **live,
            **crossed,
            "computes": 1,
            "nodes": 1,
            "synchronizes": 1,
        }
        loopback.reset()
        pyllama.lib.ggml_backend_tensor_memset(one.x, 0, 8, 16)
        pyllama.lib.ggml_backend_buffer_clear(one.buffer, 0)
        assert look(one.x) == 0
        counted = {"memsets": 1, "memset_bytes": 16, "clears": 1, "clear_bytes": 3 * PADDED}
        assert changed(loopback.stats()) == {**live, **counted, "gets": 1, "get_bytes": SIZE}
        loopback.reset()
    assert changed(loopback.stats()) == {"frees": 1, "free_bytes": 3 * PADDED, "peak_bytes": 3 * PADDED}


def test_new_memory_is_not_zero(loopback: Loopback) -> None:
    for fill in (0xA5, 0xFF, 256):
        loopback.set(fill=fill)
        one = Sum(loopback)
        with sums(one):
            found = pyllama.ffi.new("unsigned char[]", SIZE)
            pyllama.lib.ggml_backend_tensor_get(one.x, found, 0, SIZE)
            assert set(found) == {fill % 256}


def test_a_2d_copy_is_one_call(loopback: Loopback) -> None:
    if not hasattr(pyllama.lib, "ggml_backend_tensor_set_2d"):
        pytest.skip("the pin has no 2d copies")
    one = Sum(loopback)
    with sums(one):
        loopback.reset()
        pyllama.lib.ggml_backend_buffer_clear(one.buffer, 0)
        rows = pyllama.ffi.new("float[]", [1.0, 2.0, 9.0, 3.0, 4.0, 9.0])
        pyllama.lib.ggml_backend_tensor_set_2d(one.x, rows, 0, 8, 2, 40, 12)
        found = floats()
        pyllama.lib.ggml_backend_tensor_get(one.x, found, 0, SIZE)
        assert (found[0], found[1], found[2], found[10], found[11], found[12]) == (1, 2, 0, 3, 4, 0)
        back = pyllama.ffi.new("float[]", 6)
        pyllama.lib.ggml_backend_tensor_get_2d(one.x, back, 0, 8, 2, 40, 12)
        assert list(back) == [1, 2, 0, 3, 4, 0]
        stats = loopback.stats()
        assert (stats.sets, stats.set_bytes, stats.gets, stats.get_bytes) == (1, 16, 2, SIZE + 16)


@TWO
def test_copies(loopback: Loopback) -> None:
    one, other = Sum(loopback, 0), Sum(loopback, 1)
    with sums(one, other):
        put(7.0, one.x)
        loopback.reset()
        pyllama.lib.ggml_backend_tensor_copy(one.x, one.y)
        pyllama.lib.ggml_backend_tensor_copy(one.x, other.x)
        assert look(one.y) == look(other.x) == 7
        first, second = loopback.stats(0), loopback.stats(1)
        assert (first.copies, first.copy_bytes) == (1, SIZE)
        assert (first.copies_out, first.copy_out_bytes, first.copies_in) == (1, SIZE, 0)
        assert (second.copies_in, second.copy_in_bytes, second.copies) == (1, SIZE, 0)
        assert first.sets == second.sets == 0 and (first.gets, second.gets) == (1, 1)

        loopback.refuse_copies(device=1)
        put(8.0, one.x)
        loopback.reset()
        pyllama.lib.ggml_backend_tensor_copy(one.x, other.x)
        first, second = loopback.stats(0), loopback.stats(1)
        assert (first.gets, second.sets, second.copies_refused, second.copies_in) == (1, 1, 1, 0)
        assert look(other.x) == 8


@TWO
@pytest.mark.parametrize("mode", Mode)
def test_async_copies_are_ordered_by_their_streams(loopback: Loopback, mode: Mode) -> None:
    loopback.mode(mode)
    one, other = Sum(loopback, 0), Sum(loopback, 1)
    with sums(one, other):
        put(1.0, one.x, one.y, other.y)
        loopback.reset()
        one.compute()
        pyllama.lib.ggml_backend_tensor_copy_async(one.backend, other.backend, one.z, other.x)
        other.compute()
        pyllama.lib.ggml_backend_tensor_copy_async(other.backend, one.backend, other.z, one.x)
        one.compute()
        one.synchronize()
        assert look(one.z) == 4
        assert loopback.stats(0).async_copies == loopback.stats(1).async_copies == 2

        early = floats(9.0)  # what the target's stream has to do comes first, whoever is waited for
        pyllama.lib.ggml_backend_tensor_set_async(other.backend, other.x, early, 0, SIZE)
        pyllama.lib.ggml_backend_tensor_copy_async(one.backend, other.backend, one.z, other.x)
        one.synchronize()
        other.synchronize()
        assert look(other.x) == 4

        loopback.reset()
        wrong = one.backend, one.backend, one.z, other.x  # the second device has its own stream
        pyllama.lib.ggml_backend_tensor_copy_async(*wrong)
        assert (loopback.stats(0).copies_refused, loopback.stats(0).async_copies) == (1, 0)

        loopback.refuse_async_copies(device=1)
        loopback.reset()
        pyllama.lib.ggml_backend_tensor_copy_async(one.backend, other.backend, one.z, other.x)
        assert look(other.x) == 4  # at once, for want of an asynchronous one
        assert (loopback.stats(1).copies_refused, loopback.stats(1).copies_in) == (1, 1)
        assert loopback.stats(1).async_copies == 0 and loopback.stats(0).synchronizes == 1


def test_deferred_work_waits_to_be_waited_for(loopback: Loopback) -> None:
    one = Sum(loopback)
    with sums(one):
        put(1.0, one.x, one.y, one.z)
        data, found = floats(5.0), floats(-1.0)
        pyllama.lib.ggml_backend_tensor_set_async(one.backend, one.x, data, 0, SIZE)
        one.compute()
        pyllama.lib.ggml_backend_tensor_get_async(one.backend, one.z, found, 0, SIZE)
        assert (look(one.x), look(one.z), found[0]) == (1, 1, -1)
        data[0:N] = [6.0] * N  # too early: the upload reads it when it is carried out
        one.synchronize()
        assert (look(one.x), look(one.z), found[0]) == (6, 7, 7)


def test_the_other_modes_do_not_wait(loopback: Loopback) -> None:
    loopback.mode(Mode.IMMEDIATE)
    one = Sum(loopback)
    with sums(one):
        put(1.0, one.x, one.y)
        one.compute()
        assert look(one.z) == 2
    loopback.mode(Mode.WORKER)
    one = Sum(loopback)
    with sums(one):
        put(1.0, one.x)
        put(2.0, one.y)
        one.compute()
        one.synchronize()
        assert look(one.z) == 3


@pytest.mark.parametrize("wait", [False, True])
def test_events_order_two_streams(loopback: Loopback, wait: bool) -> None:
    one, other = Sum(loopback), Sum(loopback)
    event = pyllama.lib.ggml_backend_event_new(loopback.device())
    with sums(one, other):
        put(1.0, one.x)
        data, late, found = floats(2.0), floats(3.0), floats()
        pyllama.lib.ggml_backend_tensor_set_async(one.backend, one.x, data, 0, SIZE)
        pyllama.lib.ggml_backend_event_record(event, one.backend)
        pyllama.lib.ggml_backend_tensor_set_async(one.backend, one.x, late, 0, SIZE)
        if wait:
            pyllama.lib.ggml_backend_event_wait(other.backend, event)
        pyllama.lib.ggml_backend_tensor_get_async(other.backend, one.x, found, 0, SIZE)
        other.synchronize()
        assert found[0] == (2 if wait else 1)
        pyllama.lib.ggml_backend_event_synchronize(event)
        assert look(one.x) == 2  # up to the event, and no further
        one.synchronize()
        assert look(one.x) == 3
    pyllama.lib.ggml_backend_event_free(event)
    stats = loopback.stats()
    assert (stats.events, stats.event_records, stats.event_waits) == (1, 1, int(wait))
    assert (stats.event_synchronizes, stats.event_frees) == (1, 1)


def test_work_that_nobody_waited_for_is_dropped_with_its_stream(loopback: Loopback) -> None:
    one = Sum(loopback)
    with sums(one):
        put(1.0, one.x)
        data = floats(2.0)
        pyllama.lib.ggml_backend_tensor_set_async(one.backend, one.x, data, 0, SIZE)
        pyllama.lib.ggml_backend_free(one.backend)
        one.backend = None
        assert look(one.x) == 1
    assert loopback.stats().dropped == 1


def test_a_graph_may_change_before_it_is_computed(loopback: Loopback) -> None:
    one = Sum(loopback)
    with sums(one):
        put(1.0, one.x)
        put(2.0, one.y)
        one.compute()
        one.z.op = pyllama.lib.GGML_OP_MUL
        one.z.src[0] = pyllama.ffi.NULL
        one.synchronize()
        assert look(one.z) == 3


def test_faults(loopback: Loopback) -> None:
    loopback.fail_alloc(2)
    first, second, third = Sum(loopback), Sum(loopback), Sum(loopback)
    assert [one.buffer == pyllama.ffi.NULL for one in (first, second, third)] == [False, True, False]
    assert loopback.stats().allocs_failed == 1 and loopback.stats().live == 2
    with sums(first, second, third):
        loopback.limit_alloc(9 * PADDED - 1)
        fourth = Sum(loopback)
        with sums(fourth):
            assert fourth.buffer == pyllama.ffi.NULL
        assert pyllama.devices()[-1].memory_free > 1 << 30
        loopback.fail_compute(2)
        put(1.0, first.x, first.y)
        assert [first.compute() for _ in range(3)] == [
            pyllama.lib.GGML_STATUS_SUCCESS,
            pyllama.lib.GGML_STATUS_FAILED,
            0,
        ]
        first.synchronize()
        assert look(first.z) == 2
        assert (loopback.stats().computes, loopback.stats().computes_failed) == (3, 1)


def test_offload(loopback: Loopback) -> None:
    """Matrix products of at least 32 rows, as on GPUs, or of as many as was set."""
    params = pyllama.ffi.new("struct ggml_init_params *", (1 << 20, pyllama.ffi.NULL, True))
    context = pyllama.lib.ggml_init(params[0])
    weights = pyllama.lib.ggml_new_tensor_2d(context, pyllama.lib.GGML_TYPE_F32, 8, 8)

    def wanted(rows: int) -> bool:
        batch = pyllama.lib.ggml_new_tensor_2d(context, pyllama.lib.GGML_TYPE_F32, 8, rows)
        return bool(
            pyllama.lib.ggml_backend_dev_offload_op(
                loopback.device(), pyllama.lib.ggml_mul_mat(context, weights, batch)
            )
        )

    assert (wanted(31), wanted(32)) == (False, True)
    assert not pyllama.lib.ggml_backend_dev_offload_op(
        loopback.device(), pyllama.lib.ggml_add(context, weights, weights)
    )
    loopback.set(offload_batch=2)
    assert (wanted(1), wanted(2)) == (False, True)
    loopback.set(offload_batch=0)
    assert not wanted(512)
    assert pyllama.lib.ggml_backend_dev_supports_op(
        loopback.device(), pyllama.lib.ggml_mul_mat(context, weights, weights)
    )
    custom = pyllama.lib.ggml_map_custom1(context, weights, pyllama.ffi.NULL, 1, pyllama.ffi.NULL)
    assert not pyllama.lib.ggml_backend_dev_supports_op(loopback.device(), custom)
    pyllama.lib.ggml_free(context)


def test_it_can_be_taken_away(loopback_plugin: Path, loopback: Loopback) -> None:
    loopback.unload()
    assert all(device.backend != "Loopback" for device in pyllama.devices())
    again = Loopback(loopback_plugin, 3)
    assert [d.name for d in pyllama.devices() if d.backend == "Loopback"] == [
        f"Loopback{i}" for i in range(3)
    ]
    again.unload()
    assert "LOOPBACK_DEVICES" not in os.environ


# What the host must not do, in a process of its own.

BUFFER = """
buft = lib.ggml_backend_dev_buffer_type(loopback.device())
buffer = lib.ggml_backend_buft_alloc_buffer(buft, 1 << 16)
lib.ggml_backend_buffer_clear(buffer, 1)
bytes = ffi.cast("char *", lib.ggml_backend_buffer_get_base(buffer))
print("alive", flush=True)
"""


@pytest.mark.parametrize(
    "touch", ["bytes[0]", "bytes[0] = b'x'", "bytes[(1 << 16) - 1]", "bytes[(1 << 16) - 1] = b'x'"]
)
def test_the_host_cannot_touch_device_memory(loopback_child: LoopbackChild, touch: str) -> None:
    done = loopback_child(f"{BUFFER}{touch}\nprint('not protected')", check=False)
    assert (done.stdout, done.returncode) == ("alive\n", -signal.SIGSEGV), done.stderr


@pytest.mark.parametrize("where", ["CPU", "Loopback1"])
def test_a_graph_with_memory_of_others_is_refused(loopback_child: LoopbackChild, where: str) -> None:
    """The scheduler has to copy everything that a split uses to its device."""
    code = """
backend = lib.ggml_backend_dev_init(loopback.device(0), ffi.NULL)
context = lib.ggml_init(ffi.new("struct ggml_init_params *", (1 << 20, ffi.NULL, True))[0])
x = lib.ggml_new_tensor_1d(context, lib.GGML_TYPE_F32, 10)
lib.ggml_set_name(x, b"elsewhere")
other = lib.ggml_backend_dev_by_name(sys.argv[1].encode())
lib.ggml_backend_alloc_ctx_tensors_from_buft(context, lib.ggml_backend_dev_buffer_type(other))
graph = lib.ggml_new_graph(context)
lib.ggml_build_forward_expand(graph, lib.ggml_add(context, x, x))
lib.ggml_backend_alloc_ctx_tensors(context, backend)
lib.ggml_backend_graph_compute(backend, graph)
"""
    done = loopback_child(code, where, devices=2, check=False)
    assert done.returncode == -signal.SIGABRT
    assert f"tensor elsewhere is not on this device but {where}" in done.stderr


# The plug-in's own code.


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitized(compile_native: Compile, patched_build: Build, run_native: Run, sanitizer: str) -> None:
    cpu = patched_build.lib_dir / "libggml-cpu.so"
    if not cpu.exists():
        pytest.skip("the build has no libggml-cpu.so (variants only?)")
    flags = [*FLAGS, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    program = compile_native(patched_build, "loopback_check.cpp", flags=flags, extra_sources=SOURCES)
    # gcc 12's thread sanitizer cannot place its shadow under full address randomisation (test_shim.py)
    # no leak check: it needs ptrace, which containers often forbid
    words = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1"}
    done = run_native(Path("/usr/bin/setarch"), "-R", program, cpu, env=words)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_another_process_sees_the_counts(
    loopback_child: LoopbackChild, loopback_plugin: Path, tmp_path: Path
) -> None:
    code = (
        "buft = lib.ggml_backend_dev_buffer_type(loopback.device(1))\n"
        "lib.ggml_backend_buft_alloc_buffer(buft, 4096)\n"
        "print(loopback.stats(1))"
    )
    remote = RemoteLoopback(loopback_plugin, tmp_path / "shared")
    done = loopback_child(code, devices=2, LOOPBACK_SHARED=remote.env["LOOPBACK_SHARED"])
    assert remote.stats(1).live_bytes == 4096 and remote.stats(0).allocs == 0
    assert str(remote.stats(1)) in done.stdout

"""Sequences and checkpoints of the Python layer, on the CPU and on a device."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest
from native.loopback import Loopback

import pyllama
from pyllama.errors import ClosedError, ContextError, UsageError

pytestmark = pytest.mark.matrix

PROMPT = list(range(10, 40))
NEXT = [77]


def logits(context: pyllama.Context) -> bytes:
    """The logits of the last token, bit for bit."""
    size = 4 * len(context.model.vocab)
    return bytes(pyllama.ffi.buffer(pyllama.lib.llama_get_logits_ith(context.ptr, -1), size))


def alike(found: bytes, expected: bytes) -> bool:
    """Whether logits are the same; 2025-08 restores into other cells, so sums run in another order there."""
    if pyllama.build_info().pin != "2025-08":
        return found == expected
    rows = [numpy.frombuffer(row, numpy.float32) for row in (found, expected)]
    return bool(numpy.allclose(*rows, rtol=0, atol=0.05))


def after(sequence: pyllama.Sequence, tokens: list[int] = NEXT) -> bytes:
    """Feed tokens and return the logits."""
    sequence.feed(tokens)
    return logits(sequence.context)


@pytest.fixture(params=["attention", "hybrid", "mamba2", "swa"])
def context(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> Iterator[pyllama.Context]:
    """A context of four sequences of 256 tokens."""
    with pyllama.Model(tiny_model(request.param)) as model:
        yield model.context(n_ctx=1024, n_seq_max=4, threads=1)


@pytest.mark.parametrize("where", ["device", "host", "auto"])
def test_going_back(context: pyllama.Context, where: str) -> None:
    sequence, other = context.sequence(0), context.sequence(1)
    sequence.feed(PROMPT)
    other.feed(PROMPT[:7])
    with sequence.checkpoint(where) as saved:
        assert saved.length == sequence.length == len(PROMPT)
        assert saved.nbytes > 0 and saved.seq_id == 0
        expected = after(sequence)
        sequence.feed(PROMPT)
        other.feed(PROMPT)
        for _ in range(2):  # any number of times
            sequence.restore(saved)
            assert sequence.length == len(PROMPT)
            assert alike(after(sequence), expected)
        assert other.length == 7 + len(PROMPT)
    assert saved.closed and repr(saved) == "<Checkpoint released>"


def test_many_at_once_and_into_others(context: pyllama.Context) -> None:
    first = context.sequence(0)
    saved, expected = [], []
    for i in range(12):
        first.feed([20 + i, 30 + i])
        saved.append(first.checkpoint())
        expected.append(after(first))
    assert len({checkpoint.ptr for checkpoint in saved}) == 12
    for i in (7, 0, 11, 3):
        second = context.sequence(1 + i % 3)
        second.restore(saved[i])
        assert second.length == saved[i].length == 3 * i + 2
        assert alike(after(second), expected[i])


def test_a_branch_by_copying(context: pyllama.Context) -> None:
    first, second = context.sequence(0), context.sequence(2)
    first.feed(PROMPT)
    second.feed(PROMPT[3:])
    first.copy_to(second)
    assert second.length == first.length
    assert after(second) == after(first)


def test_replacing_takes_over_the_memory(loopback: Loopback, tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("mamba2")) as model, model.context(n_ctx=256, threads=1) as context:
        sequence = context.sequence()
        sequence.feed(PROMPT)
        saved = sequence.checkpoint()
        before = loopback.stats()
        for token in PROMPT:
            sequence.feed([token])
            old, saved = saved, sequence.checkpoint(replace=saved)
            assert old.closed and not saved.closed
        stats = loopback.stats()
        assert stats.allocs == before.allocs and stats.live_bytes == before.live_bytes
        expected = after(sequence)
        sequence.restore(saved)
        assert alike(after(sequence), expected)


def test_nothing_crosses_to_the_host(loopback: Loopback, tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=512, threads=1) as context:
        sequence = context.sequence()
        sequence.feed(PROMPT)
        before = loopback.stats()
        saved = sequence.checkpoint()
        made = loopback.stats()
        assert made.bytes_to_host == before.bytes_to_host
        assert made.live_bytes - before.live_bytes >= saved.nbytes > 0
        sequence.restore(saved)
        assert loopback.stats().bytes_to_device == made.bytes_to_device
        saved.release()
        assert loopback.stats().live_bytes == before.live_bytes
        host = sequence.checkpoint("host")
        assert loopback.stats().live_bytes == before.live_bytes and host.on_host
        device = sequence.checkpoint(replace=host)  # of the same shape, but elsewhere
        assert loopback.stats().live_bytes > before.live_bytes and not device.on_host
        host = sequence.checkpoint("host", replace=device)
        assert loopback.stats().live_bytes == before.live_bytes and host.on_host


def test_a_device_without_room(loopback: Loopback, tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=512, threads=1) as context:
        sequence = context.sequence()
        sequence.feed(PROMPT)
        loopback.limit_alloc(loopback.stats().live_bytes)
        with pytest.raises(ContextError, match=r"has not .* bytes more"):
            sequence.checkpoint()
        saved = sequence.checkpoint("auto")
        assert saved.on_host
        expected = after(sequence)
        sequence.restore(saved)
        assert alike(after(sequence), expected)


def test_partial_ones_of_a_hybrid_model(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("hybrid")) as model, model.context(n_ctx=512, n_seq_max=2) as context:
        if pyllama.build_info().pin == "2025-08":
            pytest.skip("hybrid memory saves all there")
        sequence = context.sequence()
        sequence.feed(PROMPT)
        whole, partial = sequence.checkpoint(), sequence.checkpoint(partial=True)
        assert 0 < partial.nbytes < whole.nbytes
        expected = after(sequence)
        sequence.feed(PROMPT)
        sequence.restore(partial)
        assert sequence.length == len(PROMPT)
        assert alike(after(sequence), expected)
        sequence.clear()
        with pytest.raises(ContextError, match="holds only what cannot be rewound"):
            sequence.restore(partial)
        sequence.restore(whole)
        assert alike(after(sequence), expected)


def test_no_room_for_the_cells(tiny_model: Callable[[str], Path]) -> None:
    with (
        pyllama.Model(tiny_model("attention")) as model,
        model.context(n_ctx=256, n_seq_max=2, kv_unified=True, threads=1) as context,
    ):
        first, second = context.sequence(0), context.sequence(1)
        first.feed([5] * 100)
        saved = first.checkpoint()
        first.clear()
        first.feed([6] * 20)
        second.feed([7] * 200)
        with pytest.raises(ContextError, match="not enough free cells"):
            first.restore(saved)
        assert (first.length, second.length) == (20, 200)
        second.clear()
        first.restore(saved)
        assert first.length == 100


def test_wrong_use(context: pyllama.Context) -> None:
    sequence = context.sequence()
    sequence.feed(PROMPT)
    saved = sequence.checkpoint()
    with context.model.context(n_ctx=256) as foreign:
        with pytest.raises(ContextError, match="another context"):
            foreign.sequence().restore(saved)
        with pytest.raises(ContextError, match="another context"):
            foreign.sequence().checkpoint(replace=saved)
    saved.release()
    saved.release()
    with pytest.raises(ClosedError):
        sequence.restore(saved)
    with pytest.raises(ClosedError):
        sequence.checkpoint(replace=saved)
    with pytest.raises(UsageError, match="device, host, auto"):
        sequence.checkpoint("moon")
    for seq_id in (-1, 4):
        with pytest.raises(UsageError, match="n_seq_max=4"):
            context.sequence(seq_id)
    assert sequence.length == len(PROMPT)


def test_the_collector_frees_them(loopback: Loopback, tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=512, threads=1) as context:
        sequence = context.sequence()
        sequence.feed(PROMPT)
        before = loopback.stats().live_bytes
        saved = [sequence.checkpoint() for _ in range(5)]
        assert loopback.stats().live_bytes > before
        del saved
        gc.collect()
        assert loopback.stats().live_bytes == before
        # while another thread has the context, freeing waits for the next call
        held = sequence.checkpoint()
        taken, done = threading.Event(), threading.Event()

        def hold() -> None:
            with context.lock:
                taken.set()
                done.wait(60)

        thread = threading.Thread(target=hold)
        thread.start()
        taken.wait(60)
        held.close()
        assert loopback.stats().live_bytes > before
        done.set()
        thread.join()
        sequence.feed(NEXT)
        assert loopback.stats().live_bytes == before


def test_a_context_takes_its_checkpoints_with_it(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model:
        context = model.context(n_ctx=256)
        context.sequence().feed(PROMPT)
        saved = context.sequence().checkpoint()
        context.close()
        assert saved.closed
        saved.release()


def test_an_empty_sequence(context: pyllama.Context) -> None:
    sequence = context.sequence()
    with sequence.checkpoint() as saved:
        assert (saved.length, saved.nbytes) == (0, 0)
        expected = after(sequence)
        sequence.feed(PROMPT)
        sequence.restore(saved)
        assert sequence.length == 0
        assert alike(after(sequence), expected)

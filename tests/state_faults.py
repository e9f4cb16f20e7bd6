"""What can go wrong with states on a device, and that it does no harm: one function for each, run in a child.

    from state_faults import run
    run(name, loopback, path_of_model)

An AssertionError says what is broken. Every case begins without anything on the device and ends so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
from exact_states import ON_DEVICE, WORD, flash, restore, same, save
from native.loopback import Loopback, Mode
from sequences import Logits, Sequences

import pyllama
from pyllama import ffi, lib

PARTIAL = 1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY; SWA_ONLY at 2025-08
WAYS = ("AUTO", "ASYNC", "GRAPH", "STAGED")
CASES: dict[str, Callable[[Loopback, str], None]] = {}


def case(function: Callable[[Loopback, str], None]) -> Callable[[Loopback, str], None]:
    CASES[function.__name__] = function
    return function


def run(name: str, loopback: Loopback, path: str) -> None:
    """Run one case; nothing may be left on any device after it."""
    CASES[name](loopback, path)
    loopback.defaults()
    left = [loopback.stats(device).live_bytes for device in range(loopback.count)]
    assert not any(left), f"bytes that are still on the devices: {left}"


def words(n: int, seed: int = 5) -> list[int]:
    found: list[int] = numpy.random.default_rng(seed).integers(3, 320, n).tolist()
    return found


def opened(path: str, *, n_ctx: int = 768, **options: Any) -> Sequences:
    """Three sequences; V transposed, a unified cache, no more than the window kept, unless told otherwise."""
    usual = {"kv_unified": True, "swa_full": False, **flash(False)}
    return Sequences(path, n_ctx=n_ctx, n_seq_max=3, **{**usual, **options})


@contextmanager
def by_turns(path: str, **options: Any) -> Iterator[Sequences]:
    """Sequences 0 and 1 in pieces, 2 empty."""
    with opened(path, **options) as s:
        for i, n in enumerate((7, 1, 12, 1, 1, 5)):
            s.decode(words(n, i), seq=0)
            s.decode(words(n + 1, i + 50), seq=1)
        yield s


def snapshot(s: Sequences) -> list[bytes]:
    """All that the sequences are, by the way through the host."""
    return [save(s.context, seq, 0) for seq in range(3)]


def refused(s: Sequences, seq: int = 0, flags: int = ON_DEVICE) -> bool:
    """Whether a save gives nothing."""
    blob = ffi.new("uint8_t[]", 1 << 16)
    return int(lib.llama_state_seq_get_data_ext(s.context.ptr, blob, 1 << 16, seq, flags)) == 0


def held(s: Sequences, seq: int = -1) -> int:
    return int(lib.llama_device_state_size(s.context.ptr, seq))


def near(a: Logits, b: Logits) -> bool:
    """The same but for the order of sums: the cells may be others."""
    return bool(numpy.allclose(a, b, rtol=0, atol=0.05))


def as_before(found: Logits, expected: Logits) -> bool:
    """To the bit; 2025-08 takes neighbouring cells for a sequence that was in pieces."""
    return near(found, expected) if pyllama.build_info().pin == "2025-08" else same(found, expected)


def comes_back(s: Sequences, blob: bytes, expected: Logits, seq: int = 0) -> None:
    """The blob is restored and the next logits are as they were."""
    assert restore(s.context, blob, seq) == len(blob), "the blob is refused"
    assert as_before(s.decode([WORD], seq=seq), expected), "other logits"


@case
def memory_is_refused(loopback: Loopback, path: str) -> None:
    with by_turns(path) as s:
        live = loopback.stats().live_bytes
        loopback.fail_alloc()
        assert refused(s) and held(s) == 0
        assert loopback.stats().live_bytes == live
        first = save(s.context, 0)
        size = held(s)
        assert size > 0
        expected = s.decode([WORD], seq=0)
        s.decode(words(30), seq=0)
        kept = loopback.stats()
        loopback.limit_alloc(kept.live_bytes)  # not one byte more
        grown = not refused(s)
        stats = loopback.stats()
        assert stats.live_bytes == kept.live_bytes and held(s) == size
        if grown:  # the state is as large as the one before: its memory was taken
            assert stats.allocs == kept.allocs and stats.allocs_failed == kept.allocs_failed
            assert restore(s.context, first, 0) == 0
            return
        comes_back(s, first, expected)
        loopback.defaults()
        s.decode(words(30), seq=0)
        loopback.set(max_size=4096)
        loopback.fail_alloc(2)  # the first piece is there already
        assert refused(s) and loopback.stats().live_bytes == kept.live_bytes and held(s) == size
        comes_back(s, first, expected)


@case
def every_way_through_faults(loopback: Loopback, path: str) -> None:
    faults: dict[str, dict[str, int]] = {
        "none": {},
        "async refused": {"refuse_async": 1},
        "copies refused": {"refuse_async": 1, "refuse_copy": 1},
        "graph fails": {"fail_compute": 1},
        "small buffers": {"max_size": 4096},
        "tiny odd buffers": {"max_size": 300},
    }
    with by_turns(path) as s:
        expected = save(s.context, 0, 0)
        for way in WAYS:
            lib.llama_device_state_set_copy(s.context.ptr, getattr(lib, f"LLAMA_DEVICE_STATE_COPY_{way}"))
            for name, settings in faults.items():
                loopback.set(**settings)
                loopback.reset()
                blob = save(s.context, 0)
                crossed = loopback.stats()
                loopback.defaults()
                s.decode(words(3), seq=0)
                loopback.set(**settings)
                loopback.reset()
                assert restore(s.context, blob, 0) == len(blob), f"{way}, {name}: refused"
                back = loopback.stats()
                loopback.defaults()
                assert save(s.context, 0, 0) == expected, f"{way}, {name}: other bytes"
                through_host = way == "STAGED" or name == "copies refused"
                for stats in (crossed, back):
                    data = stats.bytes_to_host + stats.bytes_to_device
                    if way == "STAGED":
                        assert data == 2 * held(s), f"{way}, {name}: {data} bytes crossed"
                    elif not through_host:
                        assert data == 0, f"{way}, {name}: {data} bytes crossed"
                assert (back.computes_failed > 0) == (name == "graph fails" and back.computes > 0)


@case
def what_is_copied(loopback: Loopback, path: str) -> None:
    with by_turns(path) as s:
        for way in WAYS[:3]:
            lib.llama_device_state_set_copy(s.context.ptr, getattr(lib, f"LLAMA_DEVICE_STATE_COPY_{way}"))
            for step in ("save", "restore"):
                loopback.reset()
                if step == "save":
                    blob = save(s.context, 0)
                else:
                    assert restore(s.context, blob, 0) == len(blob)
                stats = loopback.stats()
                assert stats.bytes_to_host == stats.bytes_to_device == 0
                # one for what was being computed, one for the copies
                assert stats.synchronizes <= 4, f"{way}, {step}: {stats.synchronizes} waits"
                if way == "ASYNC":
                    assert (
                        stats.copy_bytes == held(s)
                        and stats.copies == stats.async_copies
                        and not stats.computes
                    )
                if way == "GRAPH":
                    assert stats.computes == 1 and stats.copies == 0


@case
def one_sequence(loopback: Loopback, path: str) -> None:
    """All layers of a recurrent state follow each other in memory: one copy, both ways."""
    with Sequences(path, n_ctx=256, n_seq_max=1) as s:
        s.decode(words(20))
        loopback.reset()
        blob = save(s.context, 0)
        saved = loopback.stats()
        expected = s.decode([WORD])
        s.decode(words(5))
        loopback.reset()
        assert restore(s.context, blob, 0) == len(blob)
        restored = loopback.stats()
        for stats in (saved, restored):
            assert (stats.async_copies, stats.computes) == (1, 0), f"{stats.async_copies} copies"
            assert stats.copy_bytes == held(s)
        assert same(s.decode([WORD]), expected), "other logits"


@case
def two_devices(loopback: Loopback, path: str) -> None:
    with by_turns(path) as s:
        before = [loopback.stats(device).live_bytes for device in (0, 1)]
        loopback.reset()
        blob = save(s.context, 0)
        grown = [loopback.stats(device).live_bytes - old for device, old in enumerate(before)]
        assert min(grown) > 0 and sum(grown) == held(s)
        expected = s.decode([WORD], seq=0)
        s.decode(words(40), seq=0)
        loopback.reset()
        assert restore(s.context, blob, 0) == len(blob)
        for device in (0, 1):
            stats = loopback.stats(device)
            assert stats.bytes_to_host == stats.bytes_to_device == stats.copies_in == stats.copies_out == 0
            assert stats.copies + stats.computes > 0
        assert as_before(s.decode([WORD], seq=0), expected)
        live = [loopback.stats(device).live_bytes for device in (0, 1)]
        loopback.fail_alloc(1, 1)
        assert refused(s, 1)
        assert [loopback.stats(device).live_bytes for device in (0, 1)] == live
        assert loopback.stats(1).allocs_failed == 1
        comes_back(s, blob, expected)


@case
def waits(loopback: Loopback, path: str) -> None:
    """Work is queued and nobody looks at it before the state is saved, and before it is restored."""

    def queue(s: Sequences, tokens: list[int]) -> None:
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        first = s.end(0) + 1
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, first + i, 0
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        batch.n_tokens = len(tokens)
        assert lib.llama_decode(s.context.ptr, batch) == 0
        lib.llama_batch_free(batch)

    for mode in Mode:
        loopback.mode(mode)
        for way in WAYS:
            with opened(path) as s:
                lib.llama_device_state_set_copy(s.context.ptr, getattr(lib, f"LLAMA_DEVICE_STATE_COPY_{way}"))
                queue(s, words(20))
                blob = save(s.context, 0)
                expected = s.decode([WORD])
                queue(s, words(9))
                assert restore(s.context, blob, 0) == len(blob)
                queue(s, words(2))
                assert restore(s.context, blob, 0) == len(blob)
                state = save(s.context, 0, 0)
                assert same(s.decode([WORD]), expected), f"{mode.name}, {way}"
            with opened(path) as s:
                s.decode(words(20))
                assert save(s.context, 0, 0) == state, f"{mode.name}, {way}: not what it should be"


@case
def blobs_that_do_not_belong(loopback: Loopback, path: str) -> None:
    with by_turns(path) as s, by_turns(path) as other, by_turns(f"{Path(path).parent}/other.gguf") as strange:
        blob = save(s.context, 0)
        saved = save(s.context, 1)
        expected = s.decode([WORD], seq=0)
        state = snapshot(s)
        size = held(s)

        def harmless(hostile: bytes, seq: int = 0, flags: int = ON_DEVICE, look: bool = True) -> None:
            assert restore(s.context, hostile, seq, flags) == 0, "a blob that does not belong is restored"
            assert not look or snapshot(s) == state, "the context has changed"

        for n in [*range(49), *range(49, len(blob), 29), len(blob) - 1]:
            harmless(blob[:n], look=False)
        for at in [*range(48), *range(48, len(blob), 7)]:
            for change in (1, 0x80, 0xFF):
                changed = bytearray(blob)
                changed[at] ^= change
                harmless(bytes(changed), look=False)
        harmless(blob[:48] + saved[48:])
        harmless(saved[:48] + blob[48:])
        harmless(b"")
        harmless(bytes(4096))
        harmless(save(s.context, 0, 0))  # saved for the host
        harmless(save(other.context, 0))
        harmless(save(strange.context, 0))
        for seq in (-1, 3, 4, 255, 256, 2**31 - 1, -(2**31)):
            harmless(blob, seq)
            assert lib.llama_state_seq_get_size_ext(s.context.ptr, seq, ON_DEVICE) == 0
            assert refused(s, seq) and held(s) == size
        harmless(blob, 0, ON_DEVICE | PARTIAL)
        partial = save(s.context, 1, ON_DEVICE | PARTIAL)
        harmless(partial, 1)
        size = held(s)
        # room for less than the whole blob: nothing is written, nothing lost
        target = ffi.new("uint8_t[]", b"\xaa" * len(saved))
        assert lib.llama_state_seq_get_data_ext(s.context.ptr, target, len(saved) - 1, 1, ON_DEVICE) == 0
        assert bytes(ffi.buffer(target))[:-1] == b"\xaa" * len(saved) and held(s) == size
        assert restore(s.context, saved, 2) == len(saved)
        s.remove(2)
        assert snapshot(s) == state
        comes_back(s, blob, expected)
        state = snapshot(s)
        newer = save(s.context, 0)
        harmless(blob)  # stale
        assert restore(s.context, newer, 0) == len(newer)
        lib.llama_device_state_free(s.context.ptr, 0)
        harmless(newer)  # freed
        assert restore(s.context, saved, 1) == len(saved)  # the other one's is there
        # a context that has never saved
        with opened(path) as fresh:
            assert restore(fresh.context, saved, 0) == 0 and restore(fresh.context, bytes(100), 0) == 0
            assert fresh.end(0) == -1 and len(fresh.decode([WORD])) == 1


@case
def no_room(loopback: Loopback, path: str) -> None:
    with opened(path, n_ctx=256) as s:
        s.decode(words(100), seq=0)
        blob = save(s.context, 0)
        expected = s.decode([WORD], seq=0)
        s.remove(0)
        s.decode(words(200, 9), seq=1)
        s.decode(words(20, 8), seq=0)
        state = snapshot(s)
        for dest in (0, 2):
            assert restore(s.context, blob, dest) == 0
            assert snapshot(s) == state
        s.remove(0)
        s.remove(1)
        s.decode(words(156, 9), seq=1)  # all cells but 100
        whole = save(s.context, 1, 0)
        assert restore(s.context, blob, 0) == len(blob)
        assert save(s.context, 1, 0) == whole
        s.remove(1)
        assert near(s.decode([WORD], seq=0), expected)


@case
def freeing(loopback: Loopback, path: str) -> None:
    with by_turns(path) as s:
        before = loopback.stats()
        blobs = [save(s.context, seq) for seq in (0, 1)]
        both = [save(s.context, seq, ON_DEVICE | PARTIAL) for seq in (0, 1)]
        sizes = [held(s, seq) for seq in (0, 1)]
        assert min(sizes) > 0 and sum(sizes) == held(s) and held(s, 2) == held(s, 99) == 0
        assert loopback.stats().live_bytes - before.live_bytes >= sum(sizes)
        free = lib.llama_device_state_free
        assert free(s.context.ptr, 2) == free(s.context.ptr, 99) == 0
        assert free(s.context.ptr, 0) == sizes[0] and held(s) == sizes[1] and held(s, 0) == 0
        assert restore(s.context, blobs[0], 0) == restore(s.context, both[0], 0, ON_DEVICE | PARTIAL) == 0
        assert restore(s.context, blobs[1], 1) == len(blobs[1])
        assert free(s.context.ptr, -1) == sizes[1] and held(s) == 0
        after = loopback.stats()
        assert (after.live, after.live_bytes) == (before.live, before.live_bytes)
        for _ in range(20):  # saved again and again: the one before gives way
            save(s.context, 0)
            s.decode([WORD], seq=0)
        assert loopback.stats().live <= before.live + 2
        save(s.context, 1)  # goes with the context


@case
def an_empty_sequence(loopback: Loopback, path: str) -> None:
    with by_turns(path) as s:
        state = snapshot(s)
        blob = save(s.context, 2)
        assert restore(s.context, blob, 2) == len(blob) and snapshot(s) == state
        assert restore(s.context, blob, 0) == len(blob)
        assert s.end(0) == -1 and snapshot(s)[1:] == state[1:]
        alone = s.decode(words(9), seq=0)
        with opened(path) as fresh:
            assert near(fresh.decode(words(9)), alone)


@case
def after_clearing(loopback: Loopback, path: str) -> None:
    with by_turns(path) as s:
        blobs = [save(s.context, seq) for seq in (0, 1)]
        expected = [s.decode([WORD], seq=seq) for seq in (0, 1)]
        s.clear()
        for seq in (0, 1):
            assert restore(s.context, blobs[seq], seq) == len(blobs[seq])
        for seq in (0, 1):
            assert as_before(s.decode([WORD], seq=seq), expected[seq])

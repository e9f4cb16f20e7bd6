"""States on the device and cells that are shared, copied, shifted or removed: cases as in state_faults.py."""

from __future__ import annotations

from exact_states import ON_DEVICE, WORD, restore, save
from native.loopback import Loopback
from sequences import Sequences
from state_faults import CASES, PARTIAL, as_before, by_turns, case, near, opened, refused, snapshot, words

import pyllama
from pyllama import lib

__all__ = ["CASES"]


def shift(s: Sequences) -> None:
    """Take the first five tokens of sequence 0 away and move the others down."""
    s.remove(0, 0, 5)
    lib.llama_memory_seq_add(s.memory, 0, 5, -1, -5)


@case
def shared_cells(loopback: Loopback, path: str) -> None:
    for unified in (True, False):
        with opened(path, kv_unified=unified) as s:
            s.decode(words(20), seq=0)
            s.copy(0, 1)
            s.decode([WORD], seq=1)  # also carries out the copy
            blob = save(s.context, 0)
            expected = s.decode([WORD], seq=0)
            s.decode(words(5), seq=0)
            bystander = save(s.context, 1, 0)
            assert restore(s.context, blob, 0) == len(blob)
            assert save(s.context, 1, 0) == bystander, "the copy has changed"
            # the shared cells are still the copy's: others are taken
            assert near(s.decode([WORD], seq=0), expected)
            s.remove(0)
            assert restore(s.context, blob, 1) == len(blob)
            assert restore(s.context, blob, 2) == len(blob)
            assert near(s.decode([WORD], seq=1), expected) and near(s.decode([WORD], seq=2), expected)


@case
def copies_that_are_not_carried_out(loopback: Loopback, path: str) -> None:
    """seq_cp between streams only notes what the next decode will copy."""
    for unified in (True, False):
        with opened(path, kv_unified=unified) as s:
            s.decode(words(20), seq=0)
            s.copy(0, 1)
            blob = save(s.context, 1)
            expected = s.decode([WORD], seq=0)
            s.remove(1)
            assert restore(s.context, blob, 1) == len(blob)
            assert near(s.decode([WORD], seq=1), expected), "a copy was saved before it was one"
        with opened(path, kv_unified=unified) as s:
            s.decode(words(20), seq=0)
            s.decode(words(20, 9), seq=1)
            blob = save(s.context, 1)
            expected = s.decode([WORD], seq=1)
            s.remove(1)
            s.copy(0, 1)
            assert restore(s.context, blob, 1) == len(blob)
            assert near(s.decode([WORD], seq=1), expected), "an older copy went over the restored cells"


@case
def shifts_that_are_not_carried_out(loopback: Loopback, path: str) -> None:
    """seq_add only notes by how much the next decode will turn K."""

    with by_turns(path) as s:
        others = snapshot(s)[1:]
        shift(s)
        blob = save(s.context, 0)
        assert snapshot(s)[1:] == others
        expected = s.decode([WORD], seq=0)
        s.decode(words(7), seq=0)
        assert restore(s.context, blob, 0) == len(blob) and s.end(0) == 21
        assert as_before(s.decode([WORD], seq=0), expected), "saved as it was before the shift"
    with by_turns(path) as s:
        blob = save(s.context, 0)
        expected = s.decode([WORD], seq=0)
        shift(s)
        assert restore(s.context, blob, 0) == len(blob) and s.end(0) == 26
        assert as_before(s.decode([WORD], seq=0), expected), "restored cells were shifted"
    with by_turns(path) as s:  # the other sequence's shift is not lost
        blob = save(s.context, 1)
        shift(s)
        assert restore(s.context, blob, 1) == len(blob)
        shifted = s.decode([WORD], seq=0)
    with by_turns(path) as s:
        shift(s)
        assert near(s.decode([WORD], seq=0), shifted)


@case
def a_shift_that_fails(loopback: Loopback, path: str) -> None:
    """Nothing is saved half shifted, or restored over it; the next try carries it out."""

    with by_turns(path) as s:
        shift(s)
        expected = s.decode([WORD], seq=0)
    with by_turns(path) as s:
        other = save(s.context, 1)
        shift(s)
        loopback.fail_compute()
        assert refused(s), "positions are shifted, K is not"
        loopback.fail_compute()
        assert restore(s.context, other, 1) == 0
        loopback.fail_compute()
        place = lib.LLAMA_CHECKPOINT_DEVICE_OR_HOST
        assert lib.llama_memory_checkpoint_save(s.context.ptr, 0, 0, place) == 0
        loopback.defaults()
        assert restore(s.context, other, 1) == len(other)
        blob = save(s.context, 0)
        s.decode(words(9), seq=0)
        assert restore(s.context, blob, 0) == len(blob)
        assert near(s.decode([WORD], seq=0), expected)


@case
def only_what_cannot_be_rewound(loopback: Loopback, path: str) -> None:
    flags = ON_DEVICE | PARTIAL
    with by_turns(path) as s:
        partial = save(s.context, 0, flags)
        end = s.end(0)
        expected = s.decode([WORD], seq=0)
        before = save(s.context, 1, 0)
        for n in (1, 70):  # within the window, and beyond it
            s.decode(words(n), seq=0)
            if lib.llama_model_n_swa(s.model.ptr) > 0:
                s.remove(0, end + 1, -1)
            assert restore(s.context, partial, 0, flags) == len(partial)
            assert s.remove(0, end + 1, -1) and s.end(0) == end
            assert near(s.decode([WORD], seq=0), expected), f"after {n} more tokens"
        # 2025-08 writes cells that have left the window too, and other sequences may have taken those
        assert save(s.context, 1, 0) == before or pyllama.build_info().pin == "2025-08"
        lib.llama_device_state_free(s.context.ptr, 0)
        save(s.context, 0)
        only_whole = int(lib.llama_device_state_size(s.context.ptr, 0))
        lib.llama_device_state_free(s.context.ptr, 0)
        save(s.context, 0, flags)
        assert 0 < int(lib.llama_device_state_size(s.context.ptr, 0)) < only_whole


@case
def a_memory_without_cells(loopback: Loopback, path: str) -> None:
    """All that the window's cache had is removed, the other cache has tokens: so it has to be in `dest`."""
    with opened(path, n_batch=32, n_ubatch=32, n_ctx=1536) as s:
        for i in range(0, 400, 25):
            s.decode(words(25, i), seq=0)
        s.decode(words(30), seq=1)
        s.remove(0, 10, -1)
        blob = save(s.context, 0)
        ends = s.end(0), int(lib.llama_memory_seq_pos_min(s.memory, 0))
        assert ends == (-1, -1), "the case is none: the window's cache has cells"
        assert restore(s.context, blob, 1) == len(blob)
        assert (s.end(1), int(lib.llama_memory_seq_pos_min(s.memory, 1))) == ends

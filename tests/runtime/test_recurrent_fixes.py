"""The feature recurrent-fixes: wrong on the stock build, right on the patched one, on all recurrent memory.

Confirmed on stock builds: removing every sequence aborts the process at the next decode (2025-08, 2026-05) or
is refused, with the attention part left full (2026-10). At 2026-10 each of `ROLLBACKS` and `REFUSED` is wrong
as well; the older two pins have no rollbacks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import KINDS

pytestmark = pytest.mark.matrix

TESTS = Path(__file__).parents[1]
RECURRENT = [name for name, kind in KINDS.items() if kind.recurrent or kind.hybrid]
WITH_ROLLBACK = [name for name, kind in KINDS.items() if kind.rollback]
# Another order of adding up changes a logit by less; a wrong state changes some by several units.
ROUNDING = 0.02

PRELUDE = f"""
sys.path.append({str(TESTS)!r})
import numpy
from sequences import Sequences
from pyllama import ffi, lib

A, B, C, NEXT = numpy.random.default_rng(11).integers(3, 320, (4, 10)).tolist()
NEXT = NEXT[:3]

def differ(a, b):
    return float(numpy.abs(a - b).max())

def fresh(tokens):
    "The logits of the last ones of `tokens` when nothing else ever happened."
    with Sequences(sys.argv[1]) as s:
        return s.decode(tokens)[-len(NEXT):]

def apart(s, seq, history):
    "How far a sequence is from one that read only `history`: it reads on and its logits are compared."
    return differ(s.decode(NEXT, seq=seq), fresh(history + NEXT))
"""

REMOVE_ALL = """
with Sequences(sys.argv[1], n_seq_max=2) as s:
    s.decode(A)
    s.copy(0, 1)
    s.decode(B, seq=1)
    nothing = s.remove(-1, 0, 0), s.end(0), s.end(1)
    some = s.remove(-1, 5), s.end(0), s.end(1)
    every = s.remove(-1), s.end(0), s.end(1)
    print(json.dumps([nothing, some, every]), flush=True)
    print(json.dumps([apart(s, seq, C) if s.decode(C, seq=seq) is not None else None for seq in (1, 0)]))
"""

CASES = """
def decoded(**options):
    s = Sequences(sys.argv[1], n_seq_max=4, n_rs_seq=4, **options)
    for seq, tokens in enumerate((A, B, C)):
        s.decode(tokens, seq=seq)
    return s

def after(s, ok, seq, whole, keep):
    return ok, apart(s, seq, whole[:keep] if ok else whole)

def copied():
    "The copy of a sequence that was rolled back continues from where that one is."
    with decoded() as s:
        ok = s.remove(0, 8)
        s.copy(0, 1)
        return ok, max(apart(s, 1, A[:8]), apart(s, 0, A[:8]))

def copied_over():
    "A rollback does not outlive the sequence that another one is copied over."
    with decoded() as s:
        ok = s.remove(1, 8)
        s.copy(0, 1)
        return ok, apart(s, 1, A)

def kept_out():
    "Nor one that seq_keep drops."
    with decoded(kv_unified=True) as s:
        ok = s.remove(1, 8)
        lib.llama_memory_seq_keep(s.memory, 0)
        return ok, apart(s, 1, [])

def removed():
    "Nor one that is removed up to a position after its end."
    with decoded() as s:
        ok = s.remove(1, 8) and s.remove(1, 0, 100)
        return ok, apart(s, 1, [])

def of_short_batch():
    "A batch of one token leaves no state to go back to."
    with decoded() as s:
        s.decode(NEXT[:1])
        return after(s, s.remove(0, 10), 0, A + NEXT[:1], 10)

def before_batch():
    "Nor is the state before a batch kept."
    with decoded() as s:
        s.decode(NEXT)
        return after(s, s.remove(0, 10), 0, A + NEXT, 10)

def of_moved():
    "Other sequences that are decoded together may move this one, without its snapshots."
    with decoded(kv_unified=True) as s:
        s.decode_all({0: NEXT, 2: NEXT})
        return after(s, s.remove(1, 8), 1, B, 8)

def twice():
    "Moving it carries a rollback out, after which there is nothing to go back to."
    with decoded(kv_unified=True) as s:
        assert s.remove(1, 8)
        s.decode_all({0: NEXT, 2: NEXT})
        return after(s, s.remove(1, 7), 1, B[:8], 7)

def restored(s, flags):
    size = lib.llama_state_seq_get_size_ext(s.context.ptr, 0, flags)
    data = ffi.new("uint8_t[]", size)
    assert lib.llama_state_seq_get_data_ext(s.context.ptr, data, size, 0, flags) == size
    assert lib.llama_state_seq_set_data_ext(s.context.ptr, data, size, 1, flags) == size
    return after(s, s.remove(1, 8), 1, A, 8)

def of_restored():
    "A state that was saved holds no snapshots."
    with decoded() as s:
        return restored(s, 0)

def of_restored_on_device():
    "Nor does one that stayed on the device."
    with decoded() as s:
        return restored(s, 2)

def of_all_restored():
    "Nor one of the whole context, restored over another."
    with decoded() as s:
        size = lib.llama_state_get_size(s.context.ptr)
        data = ffi.new("uint8_t[]", size)
        assert lib.llama_state_get_data(s.context.ptr, data, size) == size
        lib.llama_memory_clear(s.memory, True)
        for seq, tokens in enumerate((C, A, B)):
            s.decode(tokens, seq=seq)
        assert lib.llama_state_set_data(s.context.ptr, data, size) == size
        return after(s, s.remove(0, 8), 0, A, 8)

def works(back):
    "What upstream does right: back to after the first token of a batch."
    with decoded() as s:
        s.decode(B[:back + 1])
        return after(s, s.remove(0, 11), 0, A + B[:back + 1], 11)

def copied_then_moved():
    "A cell that two sequences share is moved, and rolled back by that: once for both of them."
    with decoded(kv_unified=True) as s:
        ok = s.remove(1, 8)
        s.copy(1, 3)
        s.decode_all({0: NEXT, 2: NEXT})
        return ok, max(apart(s, 1, B[:8]), apart(s, 3, B[:8]))

print(json.dumps({name: globals()[name]() for name in sys.argv[2].split(",")}))
print(json.dumps([*map(works, (1, 2, 4)), copied_then_moved()]))
"""

SHARED = """
with Sequences(sys.argv[1], n_seq_max=2, n_rs_seq=4) as s:
    s.decode(A)
    s.copy(0, 1)
    print(json.dumps([s.remove(0, 8), s.end(0), s.end(1)]), flush=True)
    print(json.dumps([apart(s, 0, A), apart(s, 1, A)]))
"""

SAVED = """
with Sequences(sys.argv[1], n_seq_max=2, n_rs_seq=4) as s:
    s.decode(A)
    assert s.remove(0, 8)
    s.copy(0, 1)
    size = lib.llama_state_get_size(s.context.ptr)
    data = ffi.new("uint8_t[]", size)
    assert lib.llama_state_get_data(s.context.ptr, data, size) == size
    s.clear()
    assert lib.llama_state_set_data(s.context.ptr, data, size) == size
    print(json.dumps([apart(s, 1, A[:8]), apart(s, 0, A[:8])]))
"""

# True, and the right state: on stock a wrong one.
ROLLBACKS = ("copied", "copied_over", "kept_out", "removed")
# False, and nothing has changed: on stock True, and a wrong state.
REFUSED = ("of_short_batch", "before_batch", "of_moved", "twice", "of_restored", "of_all_restored")


@pytest.fixture
def rollback_model(tiny_model: Any, patched_build: Any) -> Any:
    """`tiny_model`, where the pin under test can roll that kind back."""

    def path(name: str) -> Path:
        if patched_build.pin not in KINDS[name].rollback:
            pytest.skip(f"{patched_build.pin} cannot roll back the tiny model {name}")
        found: Path = tiny_model(name)
        return found

    return path


def _lines(done: Any) -> list[Any]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", RECURRENT)
def test_every_sequence_can_be_removed(name: str, child: Any, tiny_model: Any) -> None:
    (nothing, some, every), apart = _lines(child(PRELUDE + REMOVE_ALL, tiny_model(name)))
    assert nothing == [True, 9, 19]
    assert some == [False, 9, 19]  # all or nothing
    assert every == [True, -1, -1]
    assert max(apart) < ROUNDING


@pytest.mark.parametrize("name", RECURRENT)
def test_stock_cannot_remove_every_sequence(name: str, child: Any, tiny_model: Any, stock_build: Any) -> None:
    done = child(PRELUDE + REMOVE_ALL, tiny_model(name), check=False, PYLLAMA_BUILD=str(stock_build.folder))
    *_, every = json.loads(done.stdout.splitlines()[0])
    if stock_build.pin == "2026-10":
        assert every == [False, 9, 19]
    else:
        assert done.returncode != 0
        assert every == [True, -1, -1]
        assert "GGML_ASSERT(cell.has_seq_id(seq_id)) failed" in done.stderr


@pytest.mark.parametrize("name", WITH_ROLLBACK)
def test_rollbacks_are_right_or_refused(name: str, child: Any, rollback_model: Any) -> None:
    cases = ",".join((*ROLLBACKS, *REFUSED, "of_restored_on_device"))
    found, works = _lines(child(PRELUDE + CASES, rollback_model(name), cases))
    for case, (ok, apart) in found.items():
        assert ok == (case in ROLLBACKS), case
        assert apart < ROUNDING, case
    for ok, apart in works:
        assert ok and apart < ROUNDING


@pytest.mark.parametrize("name", WITH_ROLLBACK)
def test_stock_goes_on_with_a_wrong_state(
    name: str, child: Any, rollback_model: Any, stock_build: Any
) -> None:
    done = child(
        PRELUDE + CASES,
        rollback_model(name),
        ",".join(ROLLBACKS + REFUSED),
        PYLLAMA_BUILD=str(stock_build.folder),
    )
    found, works = _lines(done)
    for case, (ok, apart) in found.items():
        assert ok and apart > 1, case
    for ok, apart in works:
        assert ok and apart < ROUNDING


@pytest.mark.parametrize("name", WITH_ROLLBACK)
def test_a_shared_state_is_not_rolled_back(
    name: str, child: Any, rollback_model: Any, stock_build: Any
) -> None:
    path = rollback_model(name)
    removed, apart = _lines(child(PRELUDE + SHARED, path))
    assert removed == [False, 9, 9]
    assert max(apart) < ROUNDING
    stock = child(PRELUDE + SHARED, path, check=False, PYLLAMA_BUILD=str(stock_build.folder))
    assert json.loads(stock.stdout.splitlines()[0]) == [True, 7, 7]  # the copy lost its last tokens too


@pytest.mark.parametrize("name", WITH_ROLLBACK)
def test_a_copy_of_a_rollback_can_be_saved(
    name: str, child: Any, rollback_model: Any, stock_build: Any
) -> None:
    path = rollback_model(name)
    (apart,) = _lines(child(PRELUDE + SAVED, path))
    assert max(apart) < ROUNDING
    stock = child(PRELUDE + SAVED, path, check=False, PYLLAMA_BUILD=str(stock_build.folder))
    assert stock.returncode != 0
    assert "cannot write shared recurrent state with different rollback indices" in stock.stderr

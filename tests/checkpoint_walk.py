"""Random walks among many checkpoints of many sequences, against a model that knows only what was fed.

Runs in a child. A sequence is its history: what was decoded, in which portions, and where it was cut. The
reference replays a history in a context of its own. Where every sequence has its own cells, the logits are
the same to the bit; in a unified cache sums run in another order, and they are near.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from exact_states import WORD, flash, same
from native.loopback import Loopback
from sequences import Logits, Sequences
from tiny_models import KINDS

import pyllama
from pyllama import ffi, lib

SEQUENCES = 8
LIVE = 64  # checkpoints at once
LONGEST = 40  # tokens of a sequence
PARTIAL = 1

History = tuple[tuple[int, ...], ...]  # portions of tokens; (-n,) cuts n tokens off the end


def length(history: History) -> int:
    """Tokens that a sequence with this history has."""
    return sum(part[0] if part[0] < 0 else len(part) for part in history)


@dataclass(frozen=True)
class Kept:
    """What a checkpoint should be."""

    history: History
    seq: int
    partial: bool


def opened(path: str, n_seq_max: int, unified: bool) -> Sequences:
    """256 cells for each sequence."""
    options = {"kv_unified": unified, "swa_full": False, **flash(False)}
    return Sequences(path, n_ctx=256 * n_seq_max, n_seq_max=n_seq_max, **options)


class Walk:
    """One context, its sequences' histories, and its checkpoints."""

    def __init__(self, path: str, loopback: Loopback, *, unified: bool, exact: bool, seed: int) -> None:
        self.loopback = loopback
        self.exact = exact
        self.rng = numpy.random.default_rng(seed)
        self.s = opened(path, SEQUENCES, unified)
        self.reference = opened(path, 1, unified)
        kind = KINDS[Path(path).stem.removeprefix("tiny-")]
        self.hybrid = kind.hybrid
        # Cells that left a window may be used again, by others where the cache is unified. At 2025-08 a
        # restore also leaves the search for cells at the first restored one, so they are used first.
        lost = kind.n_swa > 0 and (unified or pyllama.build_info().pin == "2025-08")
        self.rewinds = not (kind.recurrent or kind.hybrid or lost)
        self.histories: list[History] = [()] * SEQUENCES
        self.kept: dict[int, Kept] = {}
        self.used: set[int] = set()
        self.checked = self.refused = 0
        self.base = 0

    @property
    def ptr(self) -> Any:
        return self.s.context.ptr

    def pick(self, n: int) -> int:
        return int(self.rng.integers(n))

    def any_id(self) -> int:
        return sorted(self.kept)[self.pick(len(self.kept))]

    # what the reference says

    def expected(self, history: History) -> Logits:
        self.reference.clear()
        for part in history:
            if part[0] < 0:
                self.reference.remove(0, self.reference.end() + 1 + part[0], -1)
            else:
                logits = self.reference.decode(part)
        return logits[-1:]

    def check(self, seq: int, logits: Logits) -> None:
        expected = self.expected(self.histories[seq])
        self.checked += 1
        if self.exact:
            assert same(logits[-1:], expected), (
                f"{abs(logits[-1:] - expected).max()} off: {self.histories[seq]}"
            )
        else:
            assert numpy.allclose(logits[-1:], expected, rtol=0, atol=0.05), (
                f"{abs(logits[-1:] - expected).max()} off"
            )

    # steps

    def feed(self, seq: int, *, check: bool = False) -> None:
        if length(self.histories[seq]) >= LONGEST:
            self.forget(seq)
        portion = tuple(int(word) for word in self.rng.integers(3, 320, 1 + self.pick(6)))
        logits = self.s.decode(portion, seq=seq)
        self.histories[seq] += (portion,)
        if check or self.pick(12) == 0:
            self.check(seq, logits)

    def forget(self, seq: int) -> None:
        assert self.s.remove(seq)
        self.histories[seq] = ()

    def cut(self, seq: int) -> None:
        """Take tokens off the end; what cannot be rewound is removed as a whole."""
        n = length(self.histories[seq])
        if not self.rewinds or n < 2 or self.pick(4) == 0:
            self.forget(seq)
            return
        off = 1 + self.pick(min(n - 1, 5))
        assert self.s.remove(seq, n - off, -1)
        self.histories[seq] += ((-off,),)

    def save(self, seq: int) -> None:
        partial = self.hybrid and self.pick(3) == 0
        place = (lib.LLAMA_CHECKPOINT_DEVICE, lib.LLAMA_CHECKPOINT_HOST)[self.pick(8) == 0]
        old = self.any_id() if self.kept and (len(self.kept) >= LIVE or self.pick(4) == 0) else 0
        new = int(lib.llama_memory_checkpoint_replace(self.ptr, old, seq, PARTIAL * partial, place))
        assert new and new not in self.used and new > max(self.used, default=0), "an id is used again"
        self.used.add(new)
        self.kept.pop(old, None)
        self.kept[new] = Kept(self.histories[seq], seq, partial)

    def restore(self, dest: int) -> None:
        if not self.kept:
            return
        number = self.any_id()
        kept = self.kept[number]
        if kept.partial:
            dest = kept.seq
            now = self.histories[dest]
            if now[: len(kept.history)] != kept.history:
                return  # the tokens that it builds on are gone
        others = [self.s.end(seq) for seq in range(SEQUENCES)]
        done = bool(lib.llama_memory_checkpoint_restore(self.ptr, number, dest))
        if not done:
            # the oldest pin wants neighbouring cells
            self.refused += 1
            assert [self.s.end(seq) for seq in range(SEQUENCES)] == others
            return
        self.histories[dest] = kept.history
        others[dest] = length(kept.history) - 1
        assert [self.s.end(seq) for seq in range(SEQUENCES)] == others
        self.feed(dest, check=True)

    def delete(self) -> None:
        if self.kept:
            number = self.any_id()
            assert lib.llama_memory_checkpoint_delete(self.ptr, number)
            assert not lib.llama_memory_checkpoint_delete(self.ptr, number)
            assert not lib.llama_memory_checkpoint_restore(self.ptr, number, 0)
            del self.kept[number]

    # the books

    def audit(self) -> None:
        ids = ffi.new("llama_checkpoint_id[]", LIVE + 1)
        for seq in (-1, *range(SEQUENCES), SEQUENCES):
            mine = [number for number, kept in sorted(self.kept.items()) if seq in (-1, kept.seq)]
            assert lib.llama_memory_checkpoint_count(self.ptr, seq) == len(mine)
            assert lib.llama_memory_checkpoint_ids(self.ptr, seq, ids, LIVE + 1) == len(mine)
            assert list(ids[0 : len(mine)]) == mine
        sizes = on_device = 0
        for number, kept in self.kept.items():
            size = int(lib.llama_memory_checkpoint_size(self.ptr, number))
            assert (size > 0) == (length(kept.history) > 0)
            assert lib.llama_memory_checkpoint_seq_id(self.ptr, number) == kept.seq
            assert lib.llama_memory_checkpoint_pos(self.ptr, number) == length(kept.history) - 1
            sizes += size
            on_device += 0 if lib.llama_memory_checkpoint_on_host(self.ptr, number) else size
        assert lib.llama_memory_checkpoint_size(self.ptr, 0) == sizes
        assert self.loopback.stats().live_bytes - self.base == on_device
        unknown = max(self.used, default=0) + 1
        assert lib.llama_memory_checkpoint_size(self.ptr, unknown) == 0
        assert lib.llama_memory_checkpoint_seq_id(self.ptr, unknown) == -1
        assert lib.llama_memory_checkpoint_pos(self.ptr, unknown) == -1
        assert not lib.llama_memory_checkpoint_on_host(self.ptr, unknown)
        assert not lib.llama_memory_checkpoint_restore(self.ptr, unknown, 0)
        assert lib.llama_memory_checkpoint_replace(self.ptr, unknown, 0, 0, 0) == 0

    def run(self, steps: int) -> None:
        for seq in range(SEQUENCES):
            self.feed(seq, check=True)
        self.base = self.loopback.stats().live_bytes
        todo: list[Callable[[], None]] = [
            *[lambda: self.feed(self.pick(SEQUENCES))] * 4,
            *[lambda: self.save(self.pick(SEQUENCES))] * 4,
            *[lambda: self.restore(self.pick(SEQUENCES))] * 3,
            lambda: self.cut(self.pick(SEQUENCES)),
            self.delete,
        ]
        most = 0
        for step in range(steps):
            todo[self.pick(len(todo))]()
            most = max(most, len(self.kept))
            if step % 50 == 0:
                self.audit()
        assert most == LIVE and self.checked > steps / 8, (most, self.checked)
        for seq in range(SEQUENCES):
            self.feed(seq, check=True)
        mine = sum(kept.seq == 3 for kept in self.kept.values())
        assert lib.llama_memory_checkpoint_clear(self.ptr, 3) == mine
        self.kept = {number: kept for number, kept in self.kept.items() if kept.seq != 3}
        self.audit()
        assert lib.llama_memory_checkpoint_clear(self.ptr, -1) == len(self.kept)
        self.kept = {}
        self.audit()
        for seq in range(SEQUENCES):
            self.feed(seq, check=True)


def walk(
    path: str, loopback: Loopback, *, unified: bool, steps: int, seed: int = 1, exact: bool = True
) -> Walk:
    """Go so many random steps; AssertionError where something is not as it should be."""
    found = Walk(path, loopback, unified=unified, exact=exact, seed=seed)
    found.run(steps)
    found.s.close()
    found.reference.close()
    assert loopback.stats().live_bytes == 0
    return found


def limits(path: str, loopback: Loopback) -> None:
    """By number and by bytes; eviction, only when asked for, of the oldest; falling back to the host."""
    save = lib.llama_memory_checkpoint_save
    with opened(path, 2, True) as s:
        c = s.context.ptr
        ids = ffi.new("llama_checkpoint_id[]", 16)

        def there() -> list[int]:
            return list(ids[0 : lib.llama_memory_checkpoint_ids(c, -1, ids, 16)])

        s.decode(range(20, 50), seq=0)
        s.decode(range(60, 70), seq=1)
        a, b, d = (int(save(c, seq, 0, 0)) for seq in (0, 1, 0))
        each = int(lib.llama_memory_checkpoint_size(c, a))
        lib.llama_memory_checkpoint_limit(c, 0, 3, False)
        assert save(c, 0, 0, 0) == 0 and there() == [a, b, d]
        d2 = int(lib.llama_memory_checkpoint_replace(c, d, 0, 0, 0))
        assert d2 and there() == [a, b, d2]
        lib.llama_memory_checkpoint_limit(c, 0, 2, False)  # what is there stays
        assert there() == [a, b, d2] and save(c, 0, 0, 0) == 0 and there() == [a, b, d2]
        lib.llama_memory_checkpoint_limit(c, 0, 3, True)
        e = int(save(c, 0, 0, 0))
        assert there() == [b, d2, e]
        b2 = int(lib.llama_memory_checkpoint_replace(c, b, 1, 0, 0))  # the oldest makes room for itself
        assert there() == [d2, e, b2]
        total = int(lib.llama_memory_checkpoint_size(c, 0))
        lib.llama_memory_checkpoint_limit(c, total + each - 1, 0, False)
        assert save(c, 0, 0, 0) == 0 and there() == [d2, e, b2]
        lib.llama_memory_checkpoint_limit(c, total + each, 0, False)
        f = int(save(c, 0, 0, 0))
        assert f and there() == [d2, e, b2, f]
        lib.llama_memory_checkpoint_limit(c, each - 1, 0, True)  # larger than all that there may be
        assert save(c, 0, 0, 0) == 0 and there() == [d2, e, b2, f]
        lib.llama_memory_checkpoint_limit(c, each, 0, True)
        g = int(save(c, 0, 0, 0))
        assert there() == [g]
        lib.llama_memory_checkpoint_limit(c, 0, 0, False)
        for seq in (-1, 2, 2**31 - 1):
            assert save(c, seq, 0, 0) == 0 and not lib.llama_memory_checkpoint_restore(c, g, seq)
        assert there() == [g]
        # the device refuses
        expected = s.decode([WORD], seq=0)
        assert lib.llama_memory_checkpoint_restore(c, g, 0)
        loopback.limit_alloc(loopback.stats().live_bytes)
        assert save(c, 0, 0, lib.LLAMA_CHECKPOINT_DEVICE) == 0 and there() == [g]
        assert lib.llama_memory_checkpoint_replace(c, g, 1, 0, lib.LLAMA_CHECKPOINT_DEVICE) == 0
        assert there() == [g]
        host = int(save(c, 0, 0, lib.LLAMA_CHECKPOINT_DEVICE_OR_HOST))
        assert host and lib.llama_memory_checkpoint_on_host(c, host)
        assert lib.llama_memory_checkpoint_size(c, host) == each
        s.decode([1, 2, 3], seq=0)
        assert lib.llama_memory_checkpoint_restore(c, host, 0)
        assert same(s.decode([WORD], seq=0), expected)
        loopback.defaults()
        back = int(lib.llama_memory_checkpoint_replace(c, host, 0, 0, lib.LLAMA_CHECKPOINT_DEVICE))
        assert back and not lib.llama_memory_checkpoint_on_host(c, back)
    assert loopback.stats().live_bytes == 0

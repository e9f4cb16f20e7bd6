"""What a random walk of a demand-paged context and its twin can do to both, and to a model of their cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy
from exact_states import same
from kv_cells import END, Cells
from kv_twins import SEQUENCES, Shape, Twin, paged_mappings
from tiny_models import KINDS

import pyllama
from pyllama import ffi, lib

T = TypeVar("T")


class Steps:
    """Both contexts, the model of their cells, and what can be done to all of them."""

    def __init__(self, path: str, shape: Shape, seed: int) -> None:
        self.kind = KINDS[Path(path).stem.removeprefix("tiny-")]
        self.shape = shape
        self.rng = numpy.random.default_rng(seed)
        assert not paged_mappings()
        self.paged, self.plain = (Twin(path, shape, paged=paged) for paged in (True, False))
        self.mappings = paged_mappings()  # checkpoints on the device will take more
        self.cells = Cells(shape.unified)
        # at that pin a hybrid's streams are each as long as all together, and a batch of two is an assertion
        self.apart = self.kind.hybrid and not shape.unified and pyllama.build_info().pin == "2025-08"
        self.size = shape.size * (SEQUENCES if self.apart else 1)  # cells of a stream
        self.done: Counter[str] = Counter()
        self.pending = False
        self.can_shift = bool(lib.llama_memory_can_shift(self.paged.memory))
        self.exact = not self.kind.n_swa  # the cells of a window come and go

    # helpers

    def pick(self, n: int) -> int:
        return int(self.rng.integers(n))

    def seq(self) -> int:
        return self.pick(SEQUENCES)

    def words(self, n: int) -> list[int]:
        found: list[int] = self.rng.integers(3, 320, n).tolist()
        return found

    def both(self, do: Callable[[Twin], T]) -> tuple[T, T]:
        return do(self.paged), do(self.plain)

    def alike(self, do: Callable[[Twin], T]) -> T:
        here, there = self.both(do)
        assert here == there, f"{here} with paging, {there} without"
        return here

    def end(self, seq: int) -> int:
        return self.alike(lambda twin: twin.end(seq))

    def room(self, seq: int) -> int:
        """Cells that the sequence can still take, by the model."""
        free = self.size - self.cells.used(self.cells.stream(seq))
        return min(free, max(0, self.shape.cap - self.cells.used())) if self.shape.cap else free

    # steps

    def decode(self, tokens: dict[int, list[int]]) -> bool:
        starts = {seq: self.end(seq) + 1 for seq in tokens}
        said = self.says(tokens)
        codes, logits = zip(*self.both(lambda twin: twin.attempt(tokens)), strict=True)
        self.pending = False
        assert codes[0] == codes[1] and codes[0] in (0, 1), codes
        if said is not None:
            assert (codes[0] == 0) == said, f"it was said that {tokens} {'fit' if said else 'do not fit'}"
        if codes[0]:
            self.done["full"] += 1
            assert {seq: self.end(seq) + 1 for seq in tokens} == starts
            return False
        for seq, words in tokens.items():
            assert same(logits[0][seq], logits[1][seq]), f"the logits of sequence {seq} differ"
            for i in range(len(words)):
                self.cells.add({seq}, starts[seq] + i)
        self.done["decoded"] += 1
        return True

    def says(self, tokens: dict[int, list[int]]) -> bool | None:
        """Whether it should fit; None: nobody can tell."""
        if len(tokens) == 1:
            [(seq, words)] = tokens.items()
            said = self.alike(lambda twin: twin.context.kv.fits(seq, len(words)))
            assert said == bool(lib.llama_kv_fits(self.paged.ptr, seq, len(words)))
            if self.exact:
                assert said == (len(words) <= self.room(seq))
                assert lib.llama_kv_room(self.paged.ptr, seq) == self.room(seq)
            return said
        if not self.exact:
            return None
        total = sum(map(len, tokens.values()))
        if self.shape.unified:
            return total <= self.room(0)
        each = all(len(words) <= self.room(seq) for seq, words in tokens.items())
        return each and (not self.shape.cap or total <= self.shape.cap - self.cells.used())

    def one(self) -> None:
        self.decode({self.seq(): self.words(1)})

    def many(self) -> None:
        self.decode({self.seq(): self.words(1 + self.pick(70))})

    def several(self) -> None:
        if self.apart:
            return
        seqs = self.rng.permutation(SEQUENCES)[: 2 + self.pick(3)].tolist()
        self.decode({int(seq): self.words(1 + self.pick(12)) for seq in seqs})

    def too_many(self) -> None:
        """To the last cell, and one more."""
        seq = self.seq()
        room = self.room(seq)
        if self.exact and 0 < room < 400 and self.decode({seq: self.words(room)}):
            self.decode({seq: self.words(1)})
            self.done["filled"] += 1

    def coupled(self) -> None:
        source, to = self.seq(), self.seq()
        if (
            source == to
            or not self.shape.unified
            or self.kind.hybrid
            or self.room(source) < 1
            or not self.exact
        ):
            return
        self.remove(to, -1, -1)
        self.copy(source, to)
        if self.end(source) != self.end(to):
            return
        pos, token = self.end(source) + 1, self.words(1)[0]
        here, there = self.both(lambda twin: twin.shared_token(token, [source, to]))
        assert same(here, there)
        self.cells.add({source, to}, pos)
        self.done["coupled"] += 1

    def abort(self) -> None:
        """The computation is stopped half-way: what was decoded before stays."""
        seq = self.seq()
        tokens = {seq: self.words(1 + self.pick(70))}
        if self.kind.hybrid or not self.exact or len(tokens[seq]) > self.room(seq):
            return
        start, nodes = self.end(seq) + 1, self.pick(150)

        def stopped(twin: Twin) -> int:
            left = [nodes]

            @ffi.callback("bool(void *)")
            def stop(_: Any) -> bool:
                left[0] -= 1
                return left[0] < 0

            lib.llama_set_abort_callback(twin.ptr, stop, ffi.NULL)
            code, _ = twin.attempt(tokens)
            lib.llama_set_abort_callback(twin.ptr, ffi.NULL, ffi.NULL)
            return code

        code = self.alike(stopped)
        assert code in (0, 2), code
        self.done["aborted"] += code == 2
        for pos in range(start, self.end(seq) + 1):
            self.cells.add({seq}, pos)

    def remove(self, seq: int, start: int, stop: int) -> None:
        if self.alike(lambda twin: twin.remove(seq, start, stop)):
            self.cells.remove(seq, max(start, 0), stop if stop >= 0 else END)
            self.done["removed"] += 1
        else:
            assert self.kind.hybrid

    def cut(self) -> None:
        seq, end = self.seq(), 0
        end = self.end(seq) + 1
        start = self.pick(end + 1)
        stop = -1 if self.pick(2) else start + self.pick(40)
        self.remove(seq if self.pick(12) or self.kind.hybrid else -1, start, stop)

    def forget(self) -> None:
        self.remove(self.seq(), -1, -1)

    def copy(self, source: int, to: int, stop: int = -1) -> None:
        self.both(lambda twin: twin.copy(source, to, -1, stop))
        self.pending |= not self.shape.unified  # the bytes are copied when something is decoded
        self.cells.copy(source, to, 0, stop if stop >= 0 else END)

    def share(self) -> None:
        source, to = self.seq(), self.seq()
        if self.kind.hybrid or self.pick(2):
            self.remove(to, -1, -1)
        part = self.shape.unified and not self.kind.hybrid and self.pick(2)
        self.copy(source, to, self.pick(self.end(source) + 2) if part else -1)
        self.done["shared"] += 1

    def keep(self) -> None:
        if self.pick(3) == 0:
            seq = self.seq()
            self.both(lambda twin: lib.llama_memory_seq_keep(twin.memory, seq))
            self.cells.keep(seq)
            for other in range(SEQUENCES) if self.kind.hybrid else ():
                if other != seq:  # with streams its attention half is left
                    self.remove(other, -1, -1)
            self.done["kept"] += 1

    def shift(self) -> None:
        """The usual context shift, or the whole sequence anywhere."""
        seq = self.seq()
        end = self.end(seq) + 1
        if not self.can_shift or end < 8:
            return
        start, by = 0, self.pick(40) - 10
        if self.kind.hybrid:
            by = abs(by)
        elif self.pick(2):
            start, n = 2 + self.pick(3), 1 + self.pick(end // 2)
            self.remove(seq, start, start + n)
            start, by = start + n, -n
        self.both(lambda twin: lib.llama_memory_seq_add(twin.memory, seq, start, -1, by))
        self.cells.shift(seq, start, END, by)
        self.done["shifted"] += 1

    def divide(self) -> None:
        seq = self.seq()
        if self.can_shift and self.pick(4) == 0:
            self.both(lambda twin: lib.llama_memory_seq_div(twin.memory, seq, -1, -1, 2))
            self.cells.divide(seq, 2)
            self.done["divided"] += 1

    def clear(self) -> None:
        if self.pick(4) == 0:
            data = bool(self.pick(2))
            self.both(lambda twin: lib.llama_memory_clear(twin.memory, data))
            self.cells.clear()
            self.done["cleared"] += 1

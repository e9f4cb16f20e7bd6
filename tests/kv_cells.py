"""A plain model of the cells of an attention cache without a window: who is in which, at which position."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

END = 2**31 - 1


@dataclass
class Cell:
    """One cell in use."""

    stream: int
    pos: int
    seqs: set[int]


@dataclass
class Cells:
    """All cells in use; `unified` puts every sequence into one stream."""

    unified: bool
    cells: list[Cell] = field(default_factory=list)

    def stream(self, seq: int) -> int:
        """The stream that a sequence lives in."""
        return 0 if self.unified else seq

    def of(self, seq: int, start: int = 0, stop: int = END) -> list[Cell]:
        """The cells of a sequence at positions `start` to before `stop`."""
        return [cell for cell in self.cells if seq in cell.seqs and start <= cell.pos < stop]

    def count(self, seq: int) -> int:
        """How many cells a sequence is in."""
        return len(self.of(seq))

    def used(self, stream: int | None = None) -> int:
        """How many cells are in use, in one stream or in all."""
        return len([cell for cell in self.cells if stream in (None, cell.stream)])

    def snapshot(self) -> Cells:
        """A copy that stays as it is."""
        return copy.deepcopy(self)

    def add(self, seqs: set[int], pos: int) -> None:
        """One token more."""
        self.cells.append(Cell(self.stream(min(seqs)), pos, set(seqs)))

    def remove(self, seq: int, start: int = 0, stop: int = END) -> None:
        """`llama_memory_seq_rm`; -1 is every sequence."""
        for cell in self.cells:
            if (seq == -1 or seq in cell.seqs) and start <= cell.pos < stop:
                cell.seqs = set() if seq == -1 else cell.seqs - {seq}
        self._drop()

    def copy(self, source: int, to: int, start: int = 0, stop: int = END) -> None:
        """`llama_memory_seq_cp`: shares the cells in one stream, replaces the whole of another."""
        if source == to:
            return
        if self.unified:
            for cell in self.of(source, start, stop):
                cell.seqs.add(to)
            return
        positions = [cell.pos for cell in self.of(source)]
        self.replace(to, positions)

    def replace(self, seq: int, positions: list[int]) -> None:
        """Cells of its own at these positions, in place of what the sequence had."""
        self.remove(seq)
        for pos in positions:
            self.add({seq}, pos)

    def keep(self, seq: int) -> None:
        """`llama_memory_seq_keep`: other streams stay as they are."""
        for cell in self.cells:
            if cell.stream == self.stream(seq):
                cell.seqs &= {seq}
        self._drop()

    def shift(self, seq: int, start: int, stop: int, by: int) -> None:
        """`llama_memory_seq_add`: also for those who share the cells; what falls below 0 is gone."""
        for cell in self.of(seq, start, stop):
            cell.pos += by
            if cell.pos < 0:
                cell.seqs.clear()
        self._drop()

    def divide(self, seq: int, by: int) -> None:
        """`llama_memory_seq_div`."""
        for cell in self.of(seq):
            cell.pos //= by

    def clear(self) -> None:
        """`llama_memory_clear`."""
        self.cells = []

    def _drop(self) -> None:
        self.cells = [cell for cell in self.cells if cell.seqs]

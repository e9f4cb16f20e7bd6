"""Long random walks of a demand-paged context beside a twin that is not paged. Runs in a child.

Whatever is done is done to both. After each step the blocks agree with the cells, the counts with a plain
model of the cells (tests/kv_cells.py), the memory with what the system says, and the twins' logits and
states with each other, to the bit. Before each decode it is said whether it fits, and that is how it goes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from exact_states import restore, save
from kv_cells import Cells
from kv_steps import Steps
from kv_twins import SEQUENCES, Shape, Twin, memory_of, paged_mappings

import pyllama
from pyllama import ffi, lib

KEPT = 12  # saved states at once


class Walk(Steps):
    """With the states that were saved, and the books."""

    def __init__(self, path: str, shape: Shape, seed: int) -> None:
        super().__init__(path, shape, seed)
        self.files = tempfile.TemporaryDirectory()
        self.saved: list[tuple[list[bytes], list[int]]] = []  # per twin; positions
        self.points: list[tuple[list[int], list[int]]] = []  # checkpoints of each twin; positions
        self.whole: tuple[list[bytes], Cells] | None = None
        # upstream's older pins clear the whole cache before each stream of a whole state
        self.restores_streams = shape.unified or pyllama.build_info().pin not in ("2025-08", "2026-05")

    def flush(self) -> None:
        """A state is no good before the bytes of a copied sequence are there: upstream's too."""
        if self.pending:
            self.decode({self.seq(): self.words(1)})

    def positions(self, seq: int) -> list[int]:
        return [cell.pos for cell in self.cells.of(seq)]

    def filled(self) -> int | None:
        """A sequence that holds something: loading the state of an empty one changes nothing, upstream."""
        seqs = [seq for seq in range(SEQUENCES) if self.end(seq) >= 0]
        return seqs[self.pick(len(seqs))] if seqs else None

    def save(self) -> None:
        self.flush()
        seq = self.filled()
        if seq is None:
            return
        blobs = self.both(lambda twin: save(twin.context, seq, 0))
        assert blobs[0] == blobs[1], f"the states of sequence {seq} differ"
        self.saved = [*self.saved[-KEPT + 1 :], (list(blobs), self.positions(seq))]

    def restored(self, ok: bool, seq: int, positions: list[int], what: str) -> None:
        if ok:
            self.cells.replace(seq, positions)
        elif self.kind.n_swa or self.end(seq) < 0:
            self.remove(seq, -1, -1)  # upstream: one half of the cache may have taken it
        self.done[what if ok else f"{what} refused"] += 1

    def load(self) -> None:
        self.flush()
        if self.saved:
            blobs, positions = self.saved[self.pick(len(self.saved))]
            seq, rest = self.seq(), iter(blobs)
            ok = self.alike(lambda twin: restore(twin.context, next(rest), seq, 0) > 0)
            self.restored(ok, seq, positions, "restored")

    def by_device(self) -> None:
        """Saved on the device, more work, back again."""
        self.flush()
        seq = self.filled()
        if seq is None:
            return
        blobs = iter(self.both(lambda twin: save(twin.context, seq, 2)))
        positions = self.positions(seq)
        self.many()
        ok = self.alike(lambda twin: restore(twin.context, next(blobs), seq, 2) > 0)
        self.restored(ok, seq, positions, "restored on the device")

    def by_file(self) -> None:
        self.flush()
        source, to = self.filled(), self.seq()
        if source is None:
            return
        path = str(Path(self.files.name, "state")).encode()
        positions, count, words = self.positions(source), ffi.new("size_t *"), ffi.new("llama_token[1]")

        def through(twin: Twin) -> bool:
            assert lib.llama_state_seq_save_file(twin.ptr, path, source, ffi.NULL, 0)
            return bool(lib.llama_state_seq_load_file(twin.ptr, path, to, words, 1, count))

        self.restored(self.alike(through), to, positions, "restored by file")

    def save_all(self) -> None:
        self.flush()

        def state(twin: Twin) -> bytes:
            size = int(lib.llama_state_get_size(twin.ptr))
            blob = ffi.new("uint8_t[]", size)
            return bytes(ffi.buffer(blob, lib.llama_state_get_data(twin.ptr, blob, size)))

        self.whole = (list(self.both(state)), self.cells.snapshot())

    def load_all(self) -> None:
        self.flush()
        if self.whole is None or self.pick(3) or not self.restores_streams:
            return
        blobs, cells = self.whole
        rest = iter(blobs)

        def back(twin: Twin) -> bool:
            blob = next(rest)
            return int(lib.llama_state_set_data(twin.ptr, ffi.from_buffer(blob), len(blob))) == len(blob)

        assert self.alike(back)
        self.cells = cells.snapshot()
        self.done["restored whole"] += 1

    def checkpoint(self) -> None:
        self.flush()
        seq = self.seq()
        place = (lib.LLAMA_CHECKPOINT_DEVICE, lib.LLAMA_CHECKPOINT_HOST)[self.pick(2)]
        ids = self.both(lambda twin: int(lib.llama_memory_checkpoint_save(twin.ptr, seq, 0, place)))
        assert all(ids)
        self.points.append((list(ids), self.positions(seq)))
        if len(self.points) > KEPT:
            old = iter(self.points.pop(0)[0])
            assert self.alike(lambda twin: bool(lib.llama_memory_checkpoint_delete(twin.ptr, next(old))))

    def back(self) -> None:
        self.flush()
        if self.points:
            ids, positions = self.points[self.pick(len(self.points))]
            seq, rest = self.seq(), iter(ids)
            ok = self.alike(lambda twin: bool(lib.llama_memory_checkpoint_restore(twin.ptr, next(rest), seq)))
            self.restored(ok, seq, positions, "restored from a checkpoint")

    # the books

    def audit(self, memory: bool) -> None:
        assert self.alike(lambda twin: bool(lib.llama_kv_check(twin.ptr))), "blocks and cells differ"
        here, there = self.both(lambda twin: lib.llama_kv_get_stats(twin.ptr))
        each = [lib.llama_kv_get_seq_stats(self.paged.ptr, seq) for seq in range(SEQUENCES)]
        for name, _ in ffi.typeof("struct llama_kv_stats").fields:
            if name not in ("bytes_committed", "demand_paged"):
                assert getattr(here, name) == getattr(there, name), name
        assert here.demand_paged and not there.demand_paged
        assert there.bytes_committed == there.bytes_reserved
        assert here.n_caches == (2 if self.kind.n_swa else 1) and here.block_size == self.shape.block
        assert here.max_tokens == self.shape.cap
        assert (
            here.blocks_used <= here.blocks_total and here.cells_used <= here.blocks_used * self.shape.block
        )
        assert sum(one.blocks - one.blocks_shared for one in each) + here.blocks_shared == here.blocks_used
        assert 0 <= here.internal_fragmentation < 1 and 0 <= here.external_fragmentation < 1
        for seq, one in enumerate(each):
            assert one.tokens == self.cells.count(seq), (
                f"{one.tokens} tokens of sequence {seq}, not {self.cells.count(seq)}"
            )
            assert one.blocks_shared <= one.blocks and (one.blocks == 0) == (one.tokens == 0)
        if self.exact:
            per_cell = here.bytes_reserved // here.cells_total
            assert here.cells_used == self.cells.used() and here.bytes_used == per_cell * here.cells_used
            assert here.cells_total == self.size * (1 if self.shape.unified else SEQUENCES)
            for one in each:
                assert one.bytes_own == (one.blocks - one.blocks_shared) * self.shape.block * per_cell
                assert one.bytes_shared == one.blocks_shared * self.shape.block * per_cell
        assert self.paged.context.kv.stats().cells_used == here.cells_used
        if memory:
            there_now = memory_of(self.mappings)
            least = 0 if self.pending else here.bytes_used
            assert least <= there_now <= here.bytes_committed, (
                f"{here.bytes_used} bytes are in use, {there_now} there, {here.bytes_committed} counted"
            )
            if here.cells_used == 0 and not self.pending:
                assert here.bytes_committed == 0, "it is empty, but takes memory"

    def run(self, steps: int) -> None:
        self.audit(True)
        todo: dict[str, tuple[Callable[[], None], int]] = {
            "one": (self.one, 6),
            "many": (self.many, 4),
            "several": (self.several, 4),
            "too_many": (self.too_many, 1),
            "coupled": (self.coupled, 1),
            "abort": (self.abort, 2),
            "cut": (self.cut, 4),
            "forget": (self.forget, 2),
            "share": (self.share, 3),
            "keep": (self.keep, 1),
            "shift": (self.shift, 2),
            "divide": (self.divide, 1),
            "clear": (self.clear, 2),
            "save": (self.save, 2),
            "load": (self.load, 2),
            "by_device": (self.by_device, 1),
            "by_file": (self.by_file, 1),
            "save_all": (self.save_all, 1),
            "load_all": (self.load_all, 1),
            "checkpoint": (self.checkpoint, 2),
            "back": (self.back, 2),
        }
        names = [name for name, (_, weight) in todo.items() for _ in range(weight)]
        last: list[str] = []
        for step in range(steps):
            name = names[self.pick(len(names))]
            last = [*last[-7:], name]
            try:
                todo[name][0]()
                self.audit(True)
            except AssertionError as error:
                raise AssertionError(f"step {step}, after {', '.join(last)}: {error}") from error
        for seq in range(SEQUENCES):
            self.remove(seq, -1, -1)
        self.audit(True)
        self.paged.close()
        self.plain.close()
        assert not paged_mappings()


def walk(path: str, shape: Shape, *, seed: int, steps: int) -> dict[str, int]:
    """Go so many random steps; AssertionError where something is not as it should be. What was done."""
    found = Walk(path, shape, seed)
    found.run(steps)
    return dict(found.done)

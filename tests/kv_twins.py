"""A context whose cache is in blocks, as tests make it; and what its memory is, as Linux says it."""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from exact_states import flash
from sequences import Logits, Sequences

from pyllama import lib

SEQUENCES = 4
UBATCH = 32


@dataclass(frozen=True)
class Shape:
    """A cache. `size` is in cells of a stream; `cap` in tokens, 0 for none."""

    unified: bool
    flash: bool = True
    type_kv: str = "F16"
    size: int = 256
    block: int = 32
    cap: int = 0


class Twin(Sequences):
    """A context of that shape, demand-paged or not."""

    def __init__(self, path: str, shape: Shape, *, paged: bool) -> None:
        super().__init__(
            path,
            n_ctx=shape.size * (1 if shape.unified else SEQUENCES),
            n_seq_max=SEQUENCES,
            n_batch=512,
            n_ubatch=UBATCH,
            kv_unified=shape.unified,
            swa_full=False,
            type_k=getattr(lib, f"GGML_TYPE_{shape.type_kv}"),
            type_v=getattr(lib, f"GGML_TYPE_{shape.type_kv}"),
            kv_block_size=shape.block,
            kv_tokens=shape.cap,
            kv_demand_paged=paged,
            **flash(shape.flash),
        )

    @property
    def ptr(self) -> Any:
        """The context of the C API."""
        return self.context.ptr

    def attempt(self, tokens: Mapping[int, list[int]]) -> tuple[int, dict[int, Logits]]:
        """Decode: the code that llama_decode gave, and the logits if it was 0."""
        try:
            return 0, self.decode_all(tokens)
        except RuntimeError as error:
            return int(re.findall(r"gave (-?\d+)", str(error))[0]), {}

    def shared_token(self, token: int, seqs: list[int]) -> Logits:
        """One token that belongs to several sequences, which end at the same position."""
        batch = lib.llama_batch_init(1, 0, len(seqs))
        try:
            batch.n_tokens, batch.token[0], batch.pos[0], batch.logits[0] = 1, token, self.end(seqs[0]) + 1, 1
            batch.n_seq_id[0] = len(seqs)
            for i, seq in enumerate(seqs):
                batch.seq_id[0][i] = seq
            code = lib.llama_decode(self.context.ptr, batch)
            assert code == 0, f"llama_decode gave {code}"
            return self._logits([0])
        finally:
            lib.llama_batch_free(batch)


def paged_mappings() -> list[tuple[int, int]]:
    """Begin and end of the mappings that decline huge pages and reservation: this process's paged buffers."""
    found, here = [], (0, 0)
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            here = (int(bounds[1], 16), int(bounds[2], 16))
        elif line.startswith("VmFlags:") and {"nh", "nr"} <= set(line.split()):
            found.append(here)
    return found


def memory_of(mappings: list[tuple[int, int]]) -> int:
    """Bytes of their pages that are there, without those that were only read: the shared page of zeros."""
    page, own = mmap.PAGESIZE, 0
    with open("/proc/self/pagemap", "rb") as pages:
        for begin, end in mappings:
            pages.seek(begin // page * 8)
            flags = numpy.frombuffer(pages.read((end - begin) // page * 8), numpy.uint64)
            own += int(numpy.count_nonzero((flags >> 63) & (flags >> 56) & 1))
    return own * page

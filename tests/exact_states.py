"""Save, other work, restore: are the next logits the same, to the bit? Runs in a child, for one model.

Prints a JSON list with a row for each shape of cache that the pin has; see `Row`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy

sys.path.append(str(Path(__file__).parent))

from exact_table import ROUNDED
from sequences import Logits, Sequences

import pyllama
from pyllama import ffi, lib

ON_DEVICE = 2
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "IQ4_NL", "Q5_0", "Q5_1")
WORD = 77  # what is decoded to look at a state


@dataclass(frozen=True)
class Row:
    """What was found for one shape of cache. `problem` is empty when all is the same, to the bit."""

    types: str
    flash_attention: bool
    unified: bool
    problem: str
    refused: bool = False  # llama.cpp makes no such context here


def save(context: pyllama.Context, seq: int, flags: int = ON_DEVICE) -> bytes:
    """The blob of `llama_state_seq_get_data_ext`; RuntimeError when it gives none."""
    size = lib.llama_state_seq_get_size_ext(context.ptr, seq, flags)
    blob = ffi.new("uint8_t[]", max(size, 1))
    written = lib.llama_state_seq_get_data_ext(context.ptr, blob, size, seq, flags)
    if size == 0 or written != size:
        raise RuntimeError(f"a state of {size} bytes was saved as {written}")
    return bytes(ffi.buffer(blob, size))


def restore(context: pyllama.Context, blob: bytes, seq: int, flags: int = ON_DEVICE) -> int:
    """What `llama_state_seq_set_data_ext` returns."""
    return int(lib.llama_state_seq_set_data_ext(context.ptr, ffi.from_buffer(blob), len(blob), seq, flags))


def flash(on: bool) -> dict[str, Any]:
    """The context's field for flash attention, at any pin."""
    fields = dict(ffi.typeof("struct llama_context_params").fields)
    return {"flash_attn_type": int(on)} if "flash_attn_type" in fields else {"flash_attn": on}


def shapes(recurrent: bool) -> Iterator[tuple[str, str, bool, bool]]:
    """Types of K and V, flash attention, unified cache."""
    if recurrent:
        yield "F16", "F16", False, False
        return
    for unified in (True, False):
        for name in TYPES:
            yield name, name, True, unified
            yield name, "F16", False, unified  # a transposed V cannot be quantised


def same(a: Logits, b: Logits) -> bool:
    return bool(numpy.array_equal(a.view(numpy.uint32), b.view(numpy.uint32)))


def close(a: Logits, b: Logits) -> bool:
    """Whether only the order of additions may differ: other cells. Logits are spread by about 3."""
    return bool(numpy.allclose(a, b, rtol=0, atol=0.05))


def examine(s: Sequences) -> str:
    """Return what differs, or nothing."""
    rng = numpy.random.default_rng(5)

    def words(n: int) -> list[int]:
        found: list[int] = rng.integers(3, 320, n).tolist()
        return found

    # Two sequences by turns, so that in a unified cache neither has its cells side by side.
    for n in (7, 1, 12, 1, 1, 5):
        s.decode(words(n), seq=0)
        s.decode(words(n + 1), seq=1)
    blobs = [save(s.context, seq) for seq in (0, 1)]
    expected = [s.decode([WORD], seq=seq) for seq in (0, 1)]
    # other work: both go on, a third begins
    for n in (3, 1, 9):
        for seq in (0, 1, 2):
            s.decode(words(n), seq=seq)
    third = save(s.context, 2, 0)
    for seq in (1, 0):
        if restore(s.context, blobs[seq], seq) != len(blobs[seq]):
            return f"sequence {seq} cannot be restored"
    if save(s.context, 2, 0) != third:
        return "the third sequence's state changed"
    bystander = save(s.context, 1, 0)
    if restore(s.context, blobs[0], 0) != len(blobs[0]):
        return "a second restore fails"
    if save(s.context, 1, 0) != bystander:
        return "restoring sequence 0 changed the state of sequence 1"
    rounded = ""
    for seq in (0, 1):
        logits = s.decode([WORD], seq=seq)
        if not close(logits, expected[seq]):
            return f"sequence {seq} gives other logits"
        if not same(logits, expected[seq]):
            rounded = ROUNDED
    # into another sequence; what that held is gone
    if restore(s.context, blobs[0], 2) != len(blobs[0]):
        return "sequence 0's state cannot be restored into sequence 2"
    moved = s.decode([WORD], seq=2)
    if s.end(2) != s.end(0) or not close(moved, expected[0]):
        return "in sequence 2 the logits are far off"
    return rounded


def rows(path: str, *, all_types: bool = True, flash_attention: bool = True) -> list[Row]:
    """Go through every shape; those with flash attention only where a device computes it."""
    with pyllama.Model(path) as model:
        recurrent = bool(lib.llama_model_is_recurrent(model.ptr))
    found = []
    for type_k, type_v, fa, unified in shapes(recurrent):
        if (fa and not flash_attention) or (not all_types and type_k not in ("F16", "Q8_0")):
            continue
        types = type_k if type_k == type_v else f"{type_k}/{type_v}"
        options = {
            "type_k": getattr(lib, f"GGML_TYPE_{type_k}"),
            "type_v": getattr(lib, f"GGML_TYPE_{type_v}"),
            "kv_unified": unified,
            **flash(fa),
        }
        try:
            s = Sequences(path, n_ctx=768, n_seq_max=3, **options)
        except pyllama.ContextError as error:
            found.append(Row(types, fa, unified, str(error), refused=True))
            continue
        with s:
            found.append(Row(types, fa, unified, examine(s)))
    return found


if __name__ == "__main__":
    print(json.dumps([asdict(row) for row in rows(sys.argv[1], all_types=sys.argv[2:] != ["few"])]))

"""One process of sparse_reads.py: states of eight sequences, or the time of a token beside them, as JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy

import pyllama
from pyllama import lib

SEQUENCES = 8
STEPS = 24


def main() -> None:
    """Measure."""
    path, n, folder, what, device = sys.argv[1:]
    files = [Path(folder) / f"{i}.state" for i in range(SEQUENCES)]
    with (
        pyllama.Model(path, devices=[device] if device else []) as model,
        model.context(
            n_ctx=SEQUENCES * (int(n) + STEPS) + 256,
            n_seq_max=SEQUENCES,
            kv_unified=True,
            threads=2,
            flash_attn_type=lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
        ) as context,
    ):
        random = numpy.random.default_rng(1)
        times, best = [], []
        for i, file in enumerate(files):
            sequence = context.sequence(i)
            if what == "write":
                sequence.feed(random.integers(1000, 40000, int(n)).tolist())
                sequence.save(file)
            else:
                sequence.load(file)
        for step in range(STEPS if what == "read" else 0):
            start = time.perf_counter()
            context.sequence(SEQUENCES - 1).feed([1000 + step])
            best.append(int(context.logits().numpy().argmax()))
            times.append(time.perf_counter() - start)
    print(json.dumps({"token": 1e3 * min(times, default=0.0), "best": best}))


if __name__ == "__main__":
    main()

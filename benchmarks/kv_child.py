"""One measurement of a KV cache, with the library that PYLLAMA_BUILD names; prints JSON.

kv_child.py MODEL memory PAGED | speed PAGED | freed | short
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pyllama
from pyllama import lib

N_CTX = 16384
STEP, STEPS = 256, 8


def anonymous() -> float:
    """MiB of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def new_context(model: pyllama.Model, paged: bool, **fields: Any) -> pyllama.Context:
    """Return a context with flash attention; paged only where the build can."""
    options = {"kv_demand_paged": True} if paged else {}
    return model.context(
        n_ctx=N_CTX, n_batch=512, flash_attn_type=lib.LLAMA_FLASH_ATTN_TYPE_ENABLED, **fields, **options
    )


def memory(model: pyllama.Model, paged: bool) -> dict[str, Any]:
    """MiB over those before the context: after its creation, while it grows, and while it shrinks."""
    words = model.tokenize("The memory of a cache should follow what is in it. " * 300)[: STEP * STEPS]
    start = anonymous()
    with new_context(model, paged) as context:
        created = anonymous() - start
        context.sequence().feed(words[:STEP])  # the buffers of the graphs, too
        context.sequence().clear()
        graphs = anonymous() - start - created
        grow, shrink = [], []
        for i in range(STEPS):
            context.sequence().feed(words[i * STEP : (i + 1) * STEP])
            grow.append(((i + 1) * STEP, anonymous() - start - graphs))
        for i in reversed(range(STEPS)):
            context.sequence().remove(i * STEP)
            shrink.append((i * STEP, anonymous() - start - graphs))
    return {"created": created, "grow": grow, "shrink": shrink}


def per_token(context: pyllama.Context, sequences: list[int], n: int) -> float:
    """Return the median of milliseconds that one token for each sequence takes."""
    batch = lib.llama_batch_init(len(sequences), 0, 1)
    handle = lib.llama_get_memory(context.ptr)
    seen = []
    for _ in range(n):
        batch.n_tokens = len(sequences)
        for i, seq in enumerate(sequences):
            batch.token[i], batch.pos[i], batch.logits[i] = (
                500,
                lib.llama_memory_seq_pos_max(handle, seq) + 1,
                1,
            )
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, seq
        begin = time.perf_counter()
        if lib.llama_decode(context.ptr, batch) != 0:
            raise RuntimeError("the decode failed")
        lib.llama_synchronize(context.ptr)
        seen.append((time.perf_counter() - begin) * 1e3)
    lib.llama_batch_free(batch)
    return statistics.median(seen)


def speed(model: pyllama.Model, paged: bool) -> dict[str, float]:
    """Milliseconds a token after 512 of them."""
    with new_context(model, paged) as context:
        context.sequence().feed(list(range(1000, 1512)))
        return {"token": per_token(context, [0], 128)}


def freed(model: pyllama.Model) -> dict[str, float]:
    """Milliseconds a token of the last of eight sequences of 1,000 tokens: among them, after, and alone."""
    with new_context(model, False, n_seq_max=8, kv_unified=True) as context:
        for i in range(8):
            context.sequence(i).feed(list(range(1000, 2000)))
        among = per_token(context, [7], 48)
        for i in range(7):
            context.sequence(i).clear()
        # found places are the first free ones: the last sequence would move down again
        without = per_token(context, [7], 48)
        context.clear()
        context.sequence(7).feed(list(range(1000, 2000)))
        return {"among": among, "without": without, "alone": per_token(context, [7], 48)}


def short(model: pyllama.Model) -> dict[str, float]:
    """Milliseconds for a token each of eight sequences of 100, in one batch, beside 4,000 of another."""
    with new_context(model, False, n_seq_max=9, kv_unified=True) as context:
        context.sequence(8).feed(list(range(1000, 5000)))
        for i in range(8):
            context.sequence(i).feed(list(range(1000, 1100)))
        return {"token": per_token(context, list(range(8)), 48)}


def main() -> None:
    """Measure what the command line names."""
    with pyllama.Model(sys.argv[1], devices=[]) as model:
        model.context(n_ctx=64).close()  # what is allocated once
        kinds = {"memory": memory, "speed": speed}
        if sys.argv[2] in kinds:
            print(json.dumps(kinds[sys.argv[2]](model, sys.argv[3] == "1")))
        else:
            print(json.dumps({"freed": freed, "short": short}[sys.argv[2]](model)))


if __name__ == "__main__":
    main()

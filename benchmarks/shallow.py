"""Fewer layers, fewer experts: how fast contexts of one model are, beside one with all of them.

A model of random weights (16 layers, 32 experts of which 8 are taken, 32-bit floats), contexts by turns in
one process, one thread, one token at a time. Time is the processor's, not the clock's: a machine that others
use too gives the same. Also what each depth takes of memory for its cache.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from table import Row, report

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from tiny_layers import Layers
from tiny_models import Kind, Value, write

import pyllama

LAYERS, WIDTH, EXPERTS, USED, FEED = 16, 512, 32, 8, 256
ROUNDS = 3  # by turns; the best one of each counts
CONTEXT = 4096


def _mixture(layers: Layers) -> Mapping[str, Value]:
    layers.ends(WIDTH)
    for i in range(LAYERS):
        layers.norm(i, "attn_norm")
        layers.attention(i, heads=8, kv_heads=2, size=64)
        layers.experts(i, FEED, count=EXPERTS)
    return {
        "feed_forward_length": FEED,
        "expert_count": EXPERTS,
        "expert_used_count": USED,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
        "attention.key_length": 64,
        "attention.value_length": 64,
        "rope.dimension_count": 64,
        "rope.freq_base": 10000.0,
    }


def speed(context: pyllama.Context, tokens: int) -> float:
    """Tokens per second of processor time."""
    context.clear()
    context.decode([3])
    start = time.process_time()
    for i in range(tokens):
        context.decode([20 + i % 200])
    return tokens / (time.process_time() - start)


def cache(context: pyllama.Context) -> float:
    """MiB of the context's memory."""
    return sum(row.context for row in context.memory()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=24, help="tokens of one measurement")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write(Kind("shallow", "llama", _mixture), Path(folder))
        with pyllama.Model(path) as model:
            depths = {
                n: model.context(n_ctx=CONTEXT, threads=1, n_layers=n)
                for n in (LAYERS, LAYERS // 2, LAYERS // 4)
            }
            takes = {
                n: model.context(n_ctx=CONTEXT, threads=1, n_experts=n)
                for n in (USED, USED // 2, USED // 4, 1)
            }
            kinds = [*(("layers", n) for n in depths), *(("experts", n) for n in takes)]
            best = dict.fromkeys(kinds, 0.0)
            for _ in range(ROUNDS):
                for kind, n in kinds:
                    context = (depths if kind == "layers" else takes)[n]
                    best[kind, n] = max(best[kind, n], speed(context, args.tokens))
            rows = []
            for (kind, n), rate in best.items():
                most = LAYERS if kind == "layers" else USED
                peer = f"all {most} {kind}"
                rows.append(Row(f"{n} of {most} {kind}", rate, "t/s", peer, rate / best[kind, most]))
            rows += [Row(f"memory with {n} layers", cache(context), "MiB") for n, context in depths.items()]
    report("shallow", rows)


if __name__ == "__main__":
    main()

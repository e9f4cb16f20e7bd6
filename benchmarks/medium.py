"""A hybrid model of middle size for benchmarks: Mamba-2 and attention in turn, random weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from tiny_layers import Layers
from tiny_models import Kind, Value, write

LAYERS, WIDTH, HEADS, FEED = 12, 512, 8, 1024


def _build(layers: Layers) -> Mapping[str, Value]:
    layers.ends(WIDTH)
    for i in range(LAYERS):
        layers.norm(i, "attn_norm")
        if i % 4 != 3:
            layers.mamba2(i, inner=2 * WIDTH, state=128, heads=16)
        else:
            layers.attention(i, heads=HEADS, kv_heads=2, size=64)
        layers.feed_forward(i, FEED)
    return {
        "feed_forward_length": FEED,
        "attention.head_count": HEADS,
        "attention.head_count_kv": [2 * (i % 4 == 3) for i in range(LAYERS)],
        "attention.key_length": 64,
        "attention.value_length": 64,
        "rope.dimension_count": 64,
        "rope.freq_base": 10000.0,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 2 * WIDTH,
        "ssm.state_size": 128,
        "ssm.time_step_rank": 16,
        "ssm.group_count": 1,
    }


def hybrid(folder: Path) -> Path:
    """Write the model and return its path: 12 layers, 9 of them Mamba-2, about 35 million parameters."""
    return write(Kind("medium-hybrid", "granitehybrid", _build, hybrid=True), folder)

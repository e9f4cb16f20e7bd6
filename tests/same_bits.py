"""Tiny models that give the same bits however a text is cut into batches, on the CPU with one thread.

ggml multiplies several columns at once with a kernel that adds in another order than that for a single one,
where the length of a row is a multiple of its block. These models have no such lengths; with flash attention
and a cache in 32-bit floats nothing else depends on the batch. So two ways to generate that claim to be the
same have to be the same to the bit, and tests need no tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
from exact_states import flash
from tiny_layers import Layers
from tiny_models import VOCAB, WINDOW, Kind, Value, write

from pyllama import lib

WIDTH, HEADS, HEAD, INNER, STATE = 38, 3, 12, 76, 19
_ATTENTION: Mapping[str, Value] = {
    "attention.head_count": HEADS,
    "attention.head_count_kv": 1,
    "attention.key_length": HEAD,
    "attention.value_length": HEAD,
    "rope.dimension_count": HEAD,
    "rope.freq_base": 10000.0,
}
_SSM: Mapping[str, Value] = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": INNER,
    "ssm.state_size": STATE,
    "ssm.time_step_rank": 4,
    "ssm.group_count": 1,
}


def _attention(layers: Layers) -> Mapping[str, Value]:
    layers.ends(WIDTH)
    for i in range(3):
        layers.norm(i, "attn_norm")
        layers.attention(i, heads=HEADS, kv_heads=1, size=HEAD)
        layers.feed_forward(i, 44)
    return {"feed_forward_length": 44, **_ATTENTION}


def _swa(layers: Layers) -> Mapping[str, Value]:
    layers.ends(WIDTH, embedding=0.25, output=False)
    for i in range(4):
        layers.norm(i, "attn_norm")
        layers.attention(i, heads=HEADS, kv_heads=1, size=HEAD)
        layers.norm(i, "post_attention_norm", mean=3)
        layers.feed_forward(i, 44)
        layers.norm(i, "post_ffw_norm", mean=3)
    more: Mapping[str, Value] = {"attention.sliding_window": WINDOW, "final_logit_softcapping": 30.0}
    return {"feed_forward_length": 44, "attn_logit_softcapping": 50.0, **more, **_ATTENTION}


def _mamba2(layers: Layers) -> Mapping[str, Value]:
    layers.ends(WIDTH)
    for i in range(2):
        layers.norm(i, "attn_norm")
        layers.mamba2(i, inner=INNER, state=STATE, heads=4)
    return {"feed_forward_length": 0, "attention.head_count": 0, **_SSM}


def _hybrid(layers: Layers) -> Mapping[str, Value]:
    layers.ends(WIDTH)
    for i in range(4):
        layers.norm(i, "attn_norm")
        if i % 2 == 0:
            layers.mamba2(i, inner=INNER, state=STATE, heads=4)
        else:
            layers.attention(i, heads=HEADS, kv_heads=1, size=HEAD)
        layers.feed_forward(i, 44)
    return {"feed_forward_length": 44, **_ATTENTION, "attention.head_count_kv": [0, 1, 0, 1], **_SSM}


_KINDS = {
    "attention": ("llama", _attention, {}),
    "swa": ("gemma2", _swa, {"n_swa": WINDOW}),
    "mamba2": ("mamba2", _mamba2, {"recurrent": True}),
    "hybrid": ("granitehybrid", _hybrid, {"hybrid": True}),
}
NAMES = tuple(_KINDS)


def write_same_bits(name: str, folder: Path, seed: int = 0, vocab: int = VOCAB) -> Path:
    """Write a model of `NAMES` and return its path; another `seed` is another model."""
    architecture, build, about = _KINDS[name]
    return write(Kind(f"same-bits-{name}-{seed}", architecture, build, **about), folder, vocab=vocab)


def options(**more: Any) -> dict[str, Any]:
    """How to make a context of them; a sliding window forgets what it need not know."""
    f32 = lib.GGML_TYPE_F32
    kept = {"type_k": f32, "type_v": f32, "swa_full": False}
    return {"threads": 1, "n_ubatch": 32, **kept, **flash(True), **more}


def words(numbers: numpy.random.Generator, n: int) -> list[int]:
    """`n` tokens that are neither special nor the end of a text."""
    return [int(word) for word in numbers.integers(3, 320, n)]

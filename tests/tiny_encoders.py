"""Tiny encoders for tests: a BERT that gives embeddings, and one that ranks, with seeded random weights.

`write("embed", folder)` and `write("rank", folder)` make the files. The vocabulary is that of
tests/tiny_models.py. The context is short, so that tests reach its end.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy
from tiny_layers import Layers
from tiny_models import SEED, VOCAB, add_value, add_vocabulary

CONTEXT = 96  # tokens
WIDTH = 64
LAYERS = 2


def write(kind: str, folder: Path, *, causal: bool = False, template: str = "") -> Path:
    """Write an encoder of a kind into `folder` and return its path."""
    layers = Layers(numpy.random.default_rng([SEED, *kind.encode()]), VOCAB)
    layers.n_embd = WIDTH
    layers.normal("token_embd.weight", WIDTH, VOCAB)
    layers.normal("token_types.weight", WIDTH, 2, spread=0.1)
    layers.normal("position_embd.weight", WIDTH, CONTEXT, spread=0.5)
    layers.norm(None, "token_embd_norm", biased=True)
    for i in range(LAYERS):
        for name in ("q", "k", "v", "output"):
            layers.matrix(f"blk.{i}.attn_{name}", WIDTH, WIDTH, gain=1.5)
            layers.normal(f"blk.{i}.attn_{name}.bias", WIDTH, spread=0.1)
        layers.norm(i, "attn_output_norm", biased=True)
        layers.matrix(f"blk.{i}.ffn_up", WIDTH, 128)
        layers.normal(f"blk.{i}.ffn_up.bias", 128, spread=0.1)
        layers.matrix(f"blk.{i}.ffn_down", 128, WIDTH)
        layers.normal(f"blk.{i}.ffn_down.bias", WIDTH, spread=0.1)
        layers.norm(i, "layer_output_norm", biased=True)
    if kind == "rank":
        layers.matrix("cls", WIDTH, WIDTH)
        layers.normal("cls.bias", WIDTH, spread=0.1)
        layers.matrix("cls.output", WIDTH, 1, gain=3)
        layers.normal("cls.output.bias", 1, spread=0.1)
    path = folder / f"tiny-{kind}{'-causal' if causal else ''}{'-template' if template else ''}.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    for key, value in {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "feed_forward_length": 128,
        "vocab_size": VOCAB,
        "attention.head_count": 2,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.causal": causal,
        "pooling_type": 4 if kind == "rank" else 1,
    }.items():
        add_value(writer, f"bert.{key}", value)
    add_vocabulary(writer)
    writer.add_token_type_count(2)
    writer.add_add_eos_token(True)
    if template:
        writer.add_chat_template([{"name": "rerank", "template": template}])
    for tensor, values in layers.tensors.items():
        writer.add_tensor(tensor, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

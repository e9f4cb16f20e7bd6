"""Tiny models for tests: architectures for which no real model can be had, with seeded random weights.

A test takes the fixture ``tiny_model`` (tests/conftest.py) and gets the path of a GGUF file, which is
written once per session:

    def test_it(child, tiny_model):
        child(code, tiny_model("mamba2"))     # skips where the pin under test has no such architecture

``tiny_model.kinds`` names those of the pin under test, ``KINDS[name]`` says what each one is. Outside
pytest, ``write("swa", folder)`` makes the file. Weights are 32-bit floats, so no backend rounds them, and
every head or state size is one that the GPU backends' kernels take. What a token gives depends on all
tokens before it (within the window, where there is one) by far more than on rounding: state that is lost or
mixed up shows in the logits. ``Sequences`` of tests/sequences.py decodes into any sequence and gives the
logits.

| kind | architecture | covers | pins |
|---|---|---|---|
| attention | llama | grouped-query attention, heads of 64 (quantised KV types fit), flash attention | all |
| swa | gemma2 | layers with a window of 24 tokens and layers without, in turn; logit soft-capping | all |
| mamba2 | mamba2 | recurrent only: convolution (R) and state-space (S) rows | all |
| rwkv7 | rwkv7 | recurrent only: token shift (R) and wkv state (S) | all |
| hybrid | granitehybrid | Mamba-2 layers and attention layers in one memory | all |
| moe | llama | 8 experts, 4 used | all |
| hybrid-swa | lfm2 | short convolutions (R, no S) and attention with a window of 24 | 2026-05 on |
| delta | qwen35 | gated delta net and gated attention; n_rs_seq rollback at 2026-10 | 2026-05 on |
| rollback | nemotron_h | Mamba-2, attention and plain feed-forward layers; n_rs_seq rollback | 2026-10 |

At 2026-10 hybrid-swa takes n_rs_seq too. At 2025-08 lfm2 ignores the window, so hybrid-swa is not offered
there. The vocabulary (320 tokens) has every byte, so any text can be tokenized; ids from `FIRST_BYTE` on
are the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy
import pytest
from tiny_layers import Layers

SEED = 20260212
VOCAB = 320
FIRST_BYTE = 3
WINDOW = 24
CONTEXT = 4096

Value = bool | int | float | str | list[int]


@dataclass(frozen=True)
class Kind:
    """What a model is, as the public API tells it. `n_swa` is in tokens, 0 without a window."""

    name: str
    architecture: str
    build: Callable[[Layers], Mapping[str, Value]]
    pins: tuple[str, ...] = ("2025-08", "2026-05", "2026-10")
    recurrent: bool = False
    hybrid: bool = False
    n_swa: int = 0
    rollback: tuple[str, ...] = ()  # pins at which n_rs_seq is not clamped to 0


def _attention(layers: Layers) -> Mapping[str, Value]:
    layers.ends(128)
    for i in range(3):
        layers.norm(i, "attn_norm")
        layers.attention(i, heads=4, kv_heads=2, size=64)
        layers.feed_forward(i, 256)
    return {"feed_forward_length": 256, **_heads(4, 2, 64)}


def _moe(layers: Layers) -> Mapping[str, Value]:
    layers.ends(64)
    for i in range(2):
        layers.norm(i, "attn_norm")
        layers.attention(i, heads=2, kv_heads=1, size=64)
        layers.experts(i, 64, count=8)
    return {"feed_forward_length": 64, "expert_count": 8, "expert_used_count": 4, **_heads(2, 1, 64)}


def _swa(layers: Layers) -> Mapping[str, Value]:
    # The output is the embedding, so a small one, and strong layers: else every token only predicts itself.
    layers.ends(128, embedding=0.25, output=False)
    for i in range(4):
        layers.norm(i, "attn_norm")
        layers.attention(i, heads=4, kv_heads=2, size=64)
        layers.norm(i, "post_attention_norm", mean=3)
        layers.feed_forward(i, 256)
        layers.norm(i, "post_ffw_norm", mean=3)
    return {
        "feed_forward_length": 256,
        "attention.sliding_window": WINDOW,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        **_heads(4, 2, 64),
    }


def _mamba2(layers: Layers) -> Mapping[str, Value]:
    layers.ends(64)
    for i in range(2):
        layers.norm(i, "attn_norm")
        layers.mamba2(i, inner=128, state=128, heads=4)
    return {"feed_forward_length": 0, "attention.head_count": 0, **_ssm(128, 128, 4, 1)}


def _hybrid(layers: Layers) -> Mapping[str, Value]:
    layers.ends(64)
    for i in range(4):
        layers.norm(i, "attn_norm")
        if i % 2 == 0:
            layers.mamba2(i, inner=128, state=128, heads=4)
        else:
            layers.attention(i, heads=2, kv_heads=1, size=64)
        layers.feed_forward(i, 128)
    heads = {**_heads(2, 1, 64), "attention.head_count_kv": [0, 1, 0, 1]}
    return {"feed_forward_length": 128, **heads, **_ssm(128, 128, 4, 1)}


def _rollback(layers: Layers) -> Mapping[str, Value]:
    layers.ends(64)
    kinds = "MAFMA"
    for i, kind in enumerate(kinds):
        layers.norm(i, "attn_norm")
        if kind == "M":
            layers.mamba2(i, inner=128, state=128, heads=4)
        elif kind == "A":
            layers.attention(i, heads=2, kv_heads=1, size=64)
        else:
            layers.matrix(f"blk.{i}.ffn_up", 64, 128)
            layers.matrix(f"blk.{i}.ffn_down", 128, 64)
    return {
        **_heads(2, 1, 64),
        "attention.head_count_kv": [int(kind == "A") for kind in kinds],
        "feed_forward_length": [128 * (kind == "F") for kind in kinds],
        **_ssm(128, 128, 4, 1),
    }


def _delta(layers: Layers) -> Mapping[str, Value]:
    layers.ends(128)
    for i in range(4):
        layers.norm(i, "attn_norm")
        if i % 2 == 0:
            layers.delta_net(i, size=32, key_heads=2, value_heads=4)
        else:
            layers.attention(i, heads=2, kv_heads=1, size=64, gated=True, normed=True)
        layers.norm(i, "post_attention_norm")
        layers.feed_forward(i, 128, norm=False)
    return {
        "feed_forward_length": 128,
        "full_attention_interval": 2,
        "rope.dimension_sections": [11, 11, 10, 0],
        **_heads(2, 1, 64),
        **_ssm(128, 32, 4, 2),
    }


def _hybrid_swa(layers: Layers) -> Mapping[str, Value]:
    layers.ends(128, norm="token_embd_norm")
    for i in range(4):
        layers.norm(i, "attn_norm")
        if i % 2 == 0:
            layers.short_convolution(i, length=3)
        else:
            layers.attention(i, heads=2, kv_heads=1, size=64, normed=True)
        layers.feed_forward(i, 128)
    return {
        "feed_forward_length": 128,
        "shortconv.l_cache": 3,
        "attention.sliding_window": WINDOW,
        **_heads(2, 1, 64),
        "attention.head_count_kv": [0, 1, 0, 1],
    }


def _rwkv7(layers: Layers) -> Mapping[str, Value]:
    layers.ends(128, biased=True)
    layers.norm(None, "token_embd_norm", biased=True)
    ranks = {"decay": 16, "iclr": 16, "value_residual_mix": 16, "gate": 32}
    for i in range(2):
        layers.rwkv7(i, ranks, ff=256)
    return {
        "feed_forward_length": 256,
        "attention.head_count": 0,
        "attention.layer_norm_epsilon": 1e-5,
        "wkv.head_size": 64,
        "token_shift_count": 2,
        **{f"attention.{name}_lora_rank": rank for name, rank in ranks.items()},
    }


def _heads(heads: int, kv_heads: int, size: int) -> dict[str, Value]:
    return {
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.dimension_count": size,
        "rope.freq_base": 10000.0,
    }


def _ssm(inner: int, state: int, heads: int, groups: int) -> dict[str, Value]:
    return {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": heads,
        "ssm.group_count": groups,
    }


_NEWER, _NEWEST = ("2026-05", "2026-10"), ("2026-10",)
KINDS = {
    kind.name: kind
    for kind in (
        Kind("attention", "llama", _attention),
        Kind("swa", "gemma2", _swa, n_swa=WINDOW),
        Kind("mamba2", "mamba2", _mamba2, recurrent=True),
        Kind("rwkv7", "rwkv7", _rwkv7, recurrent=True),
        Kind("hybrid", "granitehybrid", _hybrid, hybrid=True),
        Kind("moe", "llama", _moe),
        Kind("hybrid-swa", "lfm2", _hybrid_swa, _NEWER, hybrid=True, n_swa=WINDOW, rollback=_NEWEST),
        Kind("delta", "qwen35", _delta, _NEWER, hybrid=True, rollback=_NEWEST),
        Kind("rollback", "nemotron_h", _rollback, _NEWEST, hybrid=True, rollback=_NEWEST),
    )
}


class TinyModels:
    """The fixture `tiny_model`: files are written when they are first asked for."""

    def __init__(self, pin: str, folder: Path) -> None:
        self.kinds = tuple(kind.name for kind in KINDS.values() if pin in kind.pins)
        self._pin = pin
        self._folder = folder
        self._written: dict[str, Path] = {}

    def __call__(self, name: str) -> Path:
        """Return the path of a model; skip the test where the pin under test cannot have it."""
        if name not in KINDS:
            raise KeyError(f"no tiny model is called {name}: there are {', '.join(KINDS)}")
        if name not in self.kinds:
            pytest.skip(f"{self._pin} has no architecture for the tiny model {name}")
        if name not in self._written:
            self._written[name] = write(name, self._folder)
        return self._written[name]


def write(
    kind: str | Kind,
    folder: Path,
    quantized: gguf.GGMLQuantizationType | None = None,
    vocab: int = VOCAB,
) -> Path:
    """Write a model, one of `KINDS` by its name, into `folder`, always the same bytes. Return its path.

    With `quantized` its matrices are random blocks of that type: a model to load, not to compute with.
    `vocab` is the number of tokens that it has, the first ones.
    """
    if isinstance(kind, str):
        kind = KINDS[kind]
    name = kind.name
    layers = Layers(numpy.random.default_rng([SEED, *name.encode()]), vocab, quantized)
    metadata = {
        "context_length": CONTEXT,
        "embedding_length": 0,
        "block_count": 0,
        "vocab_size": vocab,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        **kind.build(layers),
    }
    metadata["embedding_length"] = layers.n_embd
    metadata["block_count"] = layers.count
    path = folder / f"tiny-{name}.gguf"
    writer = gguf.GGUFWriter(path, kind.architecture)
    writer.add_name(f"tiny {name}")
    for key, value in metadata.items():
        add_value(writer, f"{kind.architecture}.{key}", value)
    add_vocabulary(writer, vocab)
    for tensor, values in layers.tensors.items():
        writer.add_tensor(tensor, values, raw_dtype=quantized if values.dtype == numpy.uint8 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_value(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def add_vocabulary(writer: gguf.GGUFWriter, size: int = VOCAB) -> None:
    """Three special tokens, the 256 bytes, and characters that are tokens of their own."""
    special = ["<unk>", "<s>", "</s>"]
    characters = "\u2581abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,;:!?-'"
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    assert len(tokens) == VOCAB and tokens.index("<0x00>") == FIRST_BYTE
    types = gguf.TokenType
    kinds = [
        types.UNKNOWN,
        types.CONTROL,
        types.CONTROL,
        *[types.BYTE] * 256,
        *[types.NORMAL] * len(characters),
    ]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens[:size])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types(kinds[:size])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)

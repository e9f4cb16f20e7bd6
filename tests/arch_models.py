"""A tiny model of any architecture, learnt from what llama.cpp says is missing.

Nobody has to know which tensors an architecture has: an empty file is offered, and every complaint of the
loader (a key that is not found, a tensor that is missing, a shape that it expected) says what to add, until
it loads. `METADATA` has values that fit together, `PARTICULAR` what single architectures want otherwise.
Weights are random, by the name of the tensor: a model that is `cut` to its first layers has the same ones in
them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy
from numpy.typing import NDArray
from tiny_models import VOCAB, add_value, add_vocabulary

Value = bool | int | float | str | list[int] | list[float] | list[bool]
Load = Callable[[Path], str]
"""Load a file; returns what was wrong with it, nothing when it could be loaded."""

LAYERS = 4
WIDTH, HEADS, FEED = 128, 2, 96
SIZE = WIDTH // HEADS
EXPERTS, USED = 8, 4
STEPS = 4000
MANY = 8

METADATA: Mapping[str, Value] = {
    "context_length": 256,
    "embedding_length": WIDTH,
    "features_length": WIDTH,
    "feed_forward_length": FEED,
    "vocab_size": VOCAB,
    "attention.head_count": HEADS,
    "attention.head_count_kv": HEADS,
    "attention.layer_norm_epsilon": 1e-5,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.group_norm_epsilon": 1e-5,
    "attention.group_norm_groups": 8,
    "attention.relative_buckets_count": 8,
    "attention.max_alibi_bias": 8.0,
    "attention.clamp_kqv": 1.0,
    "attention.sliding_window": 16,
    "attention.sliding_window_pattern": 2,
    "attention.decay_lora_rank": 16,
    "attention.iclr_lora_rank": 16,
    "attention.value_residual_mix_lora_rank": 16,
    "attention.gate_lora_rank": 16,
    "attention.indexer.head_count": 4,
    "attention.indexer.key_length": SIZE,
    "attention.indexer.top_k": 4096,
    "rope.dimension_sections": [SIZE // 4, SIZE // 4, SIZE // 4, SIZE // 4],
    "use_parallel_residual": False,
    "logit_scale": 1.0,
    "residual_scale": 0.7,
    "embedding_scale": 1.0,
    "time_mix_extra_dim": 16,
    "time_decay_extra_dim": 16,
    "wkv.head_size": SIZE,
    "token_shift_count": 2,
    "rescale_every_n_layers": 2,
    "full_attention_interval": 2,
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 2 * WIDTH,
    "ssm.state_size": 128,
    "ssm.time_step_rank": 8,
    "ssm.group_count": 1,
    "ssm.dt_b_c_rms": False,
    "kda.head_dim": SIZE,
    ".tokenizer.ggml.token_type_count": 2,
    "shortconv.l_cache": 3,
}
_EXPERTS: Mapping[str, Value] = {
    "expert_count": EXPERTS,
    "expert_used_count": USED,
    "expert_feed_forward_length": FEED,
    "expert_shared_feed_forward_length": FEED,
    "expert_chunk_feed_forward_length": FEED,
    "expert_shared_count": 1,
    "expert_weights_scale": 1.5,
    "expert_weights_norm": True,
    "expert_gating_func": 1,
    "expert_group_scale": 0.05,
    "experts_per_group": 2,
    "leading_dense_block_count": 1,
    "interleave_moe_layer_step": 2,
    "moe_every_n_layers": 2,
}
_LATENT: Mapping[str, Value] = {
    "attention.q_lora_rank": 32,
    "attention.kv_lora_rank": 32,
    "rope.dimension_count": 16,
    "attention.key_length": 48,
    "attention.value_length": 32,
    "attention.key_length_mla": 48,
    "attention.value_length_mla": 32,
}
_ONE_HEAD: Mapping[str, Value] = {**_LATENT, "attention.head_count_kv": 1}
_DELTA: Mapping[str, Value] = {
    "ssm.inner_size": WIDTH,
    "ssm.state_size": 32,
    "ssm.time_step_rank": 4,
    "ssm.group_count": 2,
}
_EIGHT: Mapping[str, Value] = {"block_count": 8}
_DENSE: Mapping[str, Value] = {"expert_count": 0, "expert_used_count": 0}
_SHIFT: Mapping[str, Value] = {"token_shift_count": 1}
_MIXED: Mapping[str, Value] = {"attention.head_count_kv": [0, HEADS] * (LAYERS // 2)}
_BLOCKS: Mapping[str, Value] = {**_MIXED, "feed_forward_length": [0, 0, FEED, 0]}
_PATTERN: Mapping[str, Value] = {"attention.sliding_window_pattern": [1, 0] * (LAYERS // 2)}

PARTICULAR: Mapping[str, Mapping[str, Value]] = {
    **dict.fromkeys(("llama", "minicpm"), _DENSE),
    **dict.fromkeys(("jamba", "granitehybrid", "lfm2", "lfm2moe"), _MIXED),
    "plamo2": {**_MIXED, "ssm.group_count": 0},
    "kimi-linear": {**_LATENT, "attention.head_count_kv": [0, 1] * (LAYERS // 2)},
    **dict.fromkeys(("nemotron_h", "nemotron_h_moe"), _BLOCKS),
    **dict.fromkeys(("deepseek2", "glm-dsa", "mistral4"), _ONE_HEAD),
    "minicpm3": _LATENT,
    "plm": _LATENT,
    **dict.fromkeys(("qwen35", "qwen35moe", "qwen3next"), _DELTA),
    **dict.fromkeys(("arwkv7", "rwkv6qwen2"), _SHIFT),
    "apertus": {f".xielu.{name}": [0.5] * LAYERS for name in ("alpha_p", "alpha_n", "beta", "eps")},
    **dict.fromkeys(("mimo2", "step35"), _PATTERN),
    "gemma3n": {"block_count": 22, "embedding_length_per_layer_input": 32, "altup.num_inputs": 4},
    "gemma4": {
        "block_count": 5,
        "attention.sliding_window_pattern": [1, 1, 1, 1, 0],
        "embedding_length_per_layer_input": 32,
        "attention.shared_kv_layers": 0,
        "attention.key_length_swa": SIZE,
        "attention.value_length_swa": SIZE,
        "rope.freq_base_swa": 10000.0,
    },
    # every sixth layer, or fourth, sees all tokens
    **dict.fromkeys(("gemma3", "gemma-embedding", "cohere2", "llama4"), _EIGHT),
}

# Tensors that the loader does without and the graph does not: {i} is each of these layers.
_EVERY, _MAMBA = range(LAYERS), range(0, LAYERS, 2)
_GATED = tuple((f"blk.{{i}}.{name}.weight", _MAMBA, (1,)) for name in ("attn_qkv", "attn_gate"))
OFFERED: Mapping[str, tuple[tuple[str, Iterable[object], tuple[int, ...]], ...]] = {
    "granitehybrid": (("blk.{i}.ssm_conv1d.bias", _MAMBA, (1,)),),
    "falcon-h1": (("blk.{i}.ssm_conv1d.bias", _EVERY, (1,)),),
    **dict.fromkeys(("nemotron_h", "nemotron_h_moe"), (("blk.{i}.ssm_conv1d.bias", (0,), (1,)),)),
    **dict.fromkeys(("qwen35", "qwen35moe", "qwen3next"), _GATED),
    "t5": (("{i}.blk.0.attn_rel_b.weight", ("enc", "dec"), (1,)),),
    "t5encoder": (("enc.blk.{i}.attn_rel_b.weight", (0,), (1,)),),
    "jina-bert-v2": (("blk.{i}.ffn_up.weight", _EVERY, (WIDTH, FEED)),),
    **dict.fromkeys(("phi3", "nomic-bert", "nomic-bert-moe"), (("blk.{i}.attn_qkv.weight", _EVERY, (1,)),)),
    "rwkv6": (("blk.{i}.time_mix_lerp_fused.weight", _EVERY, (1,)),),
}

_MISSING_KEY = re.compile(r"key not found in model: [\w-]+?\.([\w.]+)")
_WRONG_TYPE = re.compile(r"key [\w-]+?\.([\w.]+) has wrong type \S+ but expected type (\w+)")
_WRONG_LENGTH = re.compile(r"key [\w-]+?\.([\w.]+) has wrong array length; expected (\d+)")
_MISSING_TENSOR = re.compile(r"missing tensor '([^']+)'|tensor '([^']+)' not found")
_WRONG_SHAPE = re.compile(r"tensor '([^']+)' has wrong shape; expected ([\d, ]+), got")


@dataclass(frozen=True)
class ArchModel:
    """A file: metadata without the architecture's prefix, and shapes, the length of a row first.

    A key that begins with a dot has no such prefix.
    """

    architecture: str
    metadata: Mapping[str, Value]
    tensors: Mapping[str, tuple[int, ...]]

    @property
    def layers(self) -> int:
        count = self.metadata["block_count"]
        assert isinstance(count, int)
        return count

    @property
    def has_experts(self) -> bool:
        return any("_exps" in name for name in self.tensors)

    def cut(self, layers: int) -> ArchModel:
        """The same with only the first layers."""
        kept: dict[str, Value] = {
            name: value[:layers] if isinstance(value, list) and len(value) == self.layers else value
            for name, value in self.metadata.items()
        }
        if self.metadata.get("rope.dimension_sections"):  # four numbers whatever the number of layers
            kept["rope.dimension_sections"] = self.metadata["rope.dimension_sections"]
        tensors = {name: shape for name, shape in self.tensors.items() if _layer(name) < layers}
        return replace(self, metadata={**kept, "block_count": layers}, tensors=tensors)

    def taking(self, experts: int) -> ArchModel:
        """The same, which takes so many experts."""
        return replace(self, metadata={**self.metadata, "expert_used_count": experts})

    def write(self, path: Path) -> Path:
        """Write the file, always the same bytes."""
        writer = gguf.GGUFWriter(path, self.architecture)
        for key, value in self.metadata.items():
            add_value(writer, key[1:] if key.startswith(".") else f"{self.architecture}.{key}", value)
        add_vocabulary(writer)
        for name, shape in self.tensors.items():
            writer.add_tensor(name, weights(name, shape))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def names() -> list[str]:
    """Architectures of language models that `gguf` knows."""
    other = {"clip", "mmproj"}
    return sorted(name for name in gguf.MODEL_ARCH_NAMES.values() if name not in other)


def learn(architecture: str, folder: Path, load: Load, more: Mapping[str, Value] | None = None) -> ArchModel:
    """Find a model that loads, with `more` metadata.

    Raises ValueError, with the loader's words, when there is nothing to add.
    """
    model = ArchModel(architecture, {**_first(architecture), **(more or {})}, _offered(architecture))
    path = folder / f"{architecture}.gguf"
    for _ in range(STEPS):
        complaint = load(model.write(path))
        if not complaint:
            return model
        better = _answer(model, complaint)
        if repr(better) == repr(model):  # True is another value than 1 here
            raise ValueError(complaint)
        model = better
    raise ValueError(f"{STEPS} complaints, the last one: {complaint}")


def _first(architecture: str) -> dict[str, Value]:
    known = {arch: name for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture}
    tensors = {gguf.TENSOR_NAMES[t] for arch in known for t in gguf.MODEL_TENSORS[arch]}
    experts = _EXPERTS if any("_exps" in name for name in tensors) else {}
    return {"block_count": LAYERS, **METADATA, **experts, **PARTICULAR.get(architecture, {})}


def _offered(architecture: str) -> dict[str, tuple[int, ...]]:
    rows = OFFERED.get(architecture, ())
    return {name.format(i=i): shape for name, layers, shape in rows for i in layers}


def _answer(model: ArchModel, complaint: str) -> ArchModel:
    """Give the loader what it asks for; the same model when there is nothing to give."""
    metadata, tensors = dict(model.metadata), dict(model.tensors)
    if found := _WRONG_SHAPE.search(complaint):
        tensors[found[1]] = tuple(int(n) for n in found[2].split(","))
    elif found := _MISSING_TENSOR.search(complaint):
        name = found[1] or found[2]
        tensors[name] = _guess(name, tensors)
        if model.layers > MANY:  # all layers of these are alike
            tensors.update(_like_the_layer_before(_layer(name), tensors))
    elif found := _WRONG_LENGTH.search(complaint):
        value = metadata[found[1]]
        metadata[found[1]] = _repeated(value, int(found[2]))
    elif found := _WRONG_TYPE.search(complaint):
        metadata[found[1]] = _converted(metadata[found[1]], found[2], model.layers)
    elif (found := _MISSING_KEY.search(complaint)) and found[1] in _LATENT:
        metadata.update(_LATENT)
    elif found and found[1] in _EXPERTS:
        metadata.update(_EXPERTS)
    elif found and found[1] not in metadata:
        numbers = 1.0 if "scale" in found[1] or "eps" in found[1] else 1
        metadata[found[1]] = False if found[1] == "attention.causal" else numbers
    return replace(model, metadata=metadata, tensors=tensors)


def _guess(name: str, tensors: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of the tensor of that name in another layer, if there is one."""
    end = re.sub(r"^(\w*\.?blk)\.\d+", r"\1.", name)
    for other, shape in tensors.items():
        if re.sub(r"^(\w*\.?blk)\.\d+", r"\1.", other) == end:
            return shape
    return (1,)


def _like_the_layer_before(layer: int, tensors: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    before = {name: shape for name, shape in tensors.items() if _layer(name) == layer - 1 >= 0}
    return {name.replace(f"blk.{layer - 1}.", f"blk.{layer}."): shape for name, shape in before.items()}


def _layer(name: str) -> int:
    found = re.search(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1


def weights(name: str, shape: Iterable[int]) -> NDArray[numpy.float32]:
    """Random values of a size that neither grows nor fades from layer to layer."""
    random = numpy.random.default_rng(list(name.encode()))
    dimensions = tuple(shape)
    if name.endswith("norm.weight") or "_norm_" in name:
        values = random.normal(1, 0.1, dimensions[::-1])
    elif "ssm_a" in name:  # decays
        values = random.uniform(-0.5, -0.02, dimensions[::-1])
    elif len(dimensions) == 1:
        values = random.normal(0, 0.1, dimensions[::-1])
    else:
        values = random.normal(0, 1.5 / dimensions[0] ** 0.5, dimensions[::-1])
    return values.astype(numpy.float32)


def _repeated(value: Value, length: int) -> Value:
    items = value if isinstance(value, list) else [value]
    return [items[i % len(items)] for i in range(length)]  # type: ignore[return-value]


def _converted(value: Value, wanted: str, layers: int) -> Value:
    """The value as the type of that name in GGUF."""
    one = value[0] if isinstance(value, list) else value
    if wanted == "arr":
        return [int(one)] * layers
    return bool(one) if wanted == "bool" else float(one) if wanted == "f32" else int(one)

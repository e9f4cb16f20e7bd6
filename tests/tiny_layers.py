"""Random weights of tiny models, layer by layer, under the names that llama.cpp looks for.

Shapes are given as llama.cpp writes them, the length of a row first; numpy has them the other way round.
Matrices keep the size of what goes through them; decays are chosen so that a recurrent state remembers tens
of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import gguf
import numpy
from numpy.typing import NDArray

Weights = NDArray[numpy.float32]
Blocks = NDArray[numpy.uint8]
Quantized = gguf.GGMLQuantizationType


class Layers:
    """The tensors of one model, in the order in which they are asked for.

    With `quantized`, matrices are random blocks of that type: of the right size, and without sense.
    """

    def __init__(
        self, random: numpy.random.Generator, vocab: int, quantized: Quantized | None = None
    ) -> None:
        self._random = random
        self._vocab = vocab
        self._quantized = quantized
        self.n_embd = 0
        self.tensors: dict[str, Weights | Blocks] = {}

    @property
    def count(self) -> int:
        """Number of blocks."""
        return 1 + max(int(name.split(".")[1]) for name in self.tensors if name.startswith("blk."))

    def ends(
        self,
        n_embd: int,
        *,
        embedding: float = 1,
        output: bool = True,
        norm: str = "output_norm",
        biased: bool = False,
    ) -> None:
        """Embedding, last norm and, unless the model uses the embedding for it, the output: call it first."""
        self.n_embd = n_embd
        self.normal("token_embd.weight", n_embd, self._vocab, spread=embedding)
        self.norm(None, norm, biased=biased)
        if output:
            self.matrix("output", n_embd, self._vocab, gain=3)

    def normal(self, name: str, *shape: int, mean: float = 0, spread: float = 1) -> None:
        """A tensor of normally distributed values."""
        values = self._random.normal(mean, spread, shape[::-1])
        self.tensors[name] = values.astype(numpy.float32)

    def uniform(self, name: str, *shape: int, low: float, high: float) -> None:
        """A tensor of evenly distributed values."""
        self.tensors[name] = self._random.uniform(low, high, shape[::-1]).astype(numpy.float32)

    def matrix(self, name: str, rows_of: int, *shape: int, gain: float = 1) -> None:
        """`name`.weight: what comes in with size 1 goes out with size `gain`."""
        if self._quantized is not None:
            row = gguf.quants.quant_shape_to_byte_shape((rows_of,), self._quantized)[0]
            words = numpy.frombuffer(self._random.bytes(row * shape[0]), numpy.uint8)
            self.tensors[f"{name}.weight"] = words.reshape(shape[0], row)
            return
        self.normal(f"{name}.weight", rows_of, *shape, spread=gain / rows_of**0.5)

    def norm(
        self, i: int | None, name: str, size: int | None = None, *, mean: float = 1, biased: bool = False
    ) -> None:
        """The weights of a norm, in block `i`."""
        name = name if i is None else f"blk.{i}.{name}"
        self.normal(f"{name}.weight", size or self.n_embd, mean=mean, spread=0.1)
        if biased:
            self.normal(f"{name}.bias", size or self.n_embd, spread=0.1)

    def attention(
        self, i: int, *, heads: int, kv_heads: int, size: int, gated: bool = False, normed: bool = False
    ) -> None:
        """Queries, keys, values and their output; sharp enough that single tokens matter."""
        b = f"blk.{i}.attn"
        self.matrix(f"{b}_q", self.n_embd, heads * size * (1 + gated), gain=1.5)
        self.matrix(f"{b}_k", self.n_embd, kv_heads * size, gain=1.5)
        self.matrix(f"{b}_v", self.n_embd, kv_heads * size)
        self.matrix(f"{b}_output", heads * size, self.n_embd, gain=2)
        if normed:
            self.norm(i, "attn_q_norm", size, mean=1.5)
            self.norm(i, "attn_k_norm", size, mean=1.5)

    def feed_forward(self, i: int, size: int, *, norm: bool = True) -> None:
        """A gated feed-forward layer."""
        if norm:
            self.norm(i, "ffn_norm")
        self.matrix(f"blk.{i}.ffn_gate", self.n_embd, size)
        self.matrix(f"blk.{i}.ffn_up", self.n_embd, size)
        self.matrix(f"blk.{i}.ffn_down", size, self.n_embd)

    def experts(self, i: int, size: int, *, count: int) -> None:
        """Gated feed-forward layers of which a router takes some."""
        self.norm(i, "ffn_norm")
        self.matrix(f"blk.{i}.ffn_gate_inp", self.n_embd, count)
        self.matrix(f"blk.{i}.ffn_gate_exps", self.n_embd, size, count)
        self.matrix(f"blk.{i}.ffn_up_exps", self.n_embd, size, count)
        self.matrix(f"blk.{i}.ffn_down_exps", size, self.n_embd, count, gain=2)

    def mamba2(self, i: int, *, inner: int, state: int, heads: int) -> None:
        """A Mamba-2 mixer with one group and a convolution over four tokens."""
        b, channels = f"blk.{i}.ssm", inner + 2 * state
        self.matrix(f"{b}_in", self.n_embd, inner + channels + heads)
        self.matrix(f"{b}_conv1d", 4, channels, gain=2)
        self.normal(f"{b}_conv1d.bias", channels, spread=0.1)
        # A step of about 0.1 and rates of 0.02 … 0.5: a tenth is left after 46 … 1,150 tokens.
        self.normal(f"{b}_dt.bias", heads, mean=-2.2, spread=0.2)
        self.uniform(f"{b}_a", 1, heads, low=-0.5, high=-0.02)
        self.normal(f"{b}_d", 1, heads, spread=0.2)
        self.norm(i, "ssm_norm", inner)
        self.matrix(f"{b}_out", inner, self.n_embd, gain=2)

    def delta_net(self, i: int, *, size: int, key_heads: int, value_heads: int) -> None:
        """A gated delta net: heads of `size`, a convolution over four tokens."""
        b, values = f"blk.{i}", size * value_heads
        channels = 2 * size * key_heads + values
        self.matrix(f"{b}.attn_qkv", self.n_embd, channels)
        self.matrix(f"{b}.attn_gate", self.n_embd, values)
        self.matrix(f"{b}.ssm_conv1d", 4, channels, gain=2)
        self.normal(f"{b}.ssm_dt.bias", value_heads, mean=-2.2, spread=0.2)
        self.uniform(f"{b}.ssm_a", value_heads, low=-1, high=-0.1)
        self.matrix(f"{b}.ssm_alpha", self.n_embd, value_heads)
        self.matrix(f"{b}.ssm_beta", self.n_embd, value_heads)
        self.norm(i, "ssm_norm", size)
        self.matrix(f"{b}.ssm_out", values, self.n_embd, gain=2)

    def short_convolution(self, i: int, *, length: int) -> None:
        """A gated convolution over `length` tokens, the last one included."""
        b, n = f"blk.{i}.shortconv", self.n_embd
        self.normal(f"{b}.conv.weight", length, n, spread=1)
        self.matrix(f"{b}.in_proj", n, 3 * n)
        self.matrix(f"{b}.out_proj", n, n, gain=2)

    def rwkv7(self, i: int, ranks: Mapping[str, int], *, ff: int) -> None:
        """Time mix and channel mix; `ranks` are those of decay, iclr, value_residual_mix and gate."""
        n, t = self.n_embd, f"blk.{i}.time_mix"
        self.norm(i, "attn_norm", biased=True)
        self.norm(i, "attn_norm_2", biased=True)
        # The block before the first has no values to mix in: llama.cpp wants the rank of iclr there.
        mixed = ranks["value_residual_mix"] if i else ranks["iclr"]
        for letter, rank, mean in (("w", ranks["decay"], -3), ("a", ranks["iclr"], 0), ("v", mixed, 0)):
            self.normal(f"{t}_{letter}0.weight", n, mean=mean, spread=0.5)
            self.matrix(f"{t}_{letter}1", n, rank)
            self.matrix(f"{t}_{letter}2", rank, n, gain=0.5)
        self.matrix(f"{t}_g1", n, ranks["gate"])
        self.matrix(f"{t}_g2", ranks["gate"], n, gain=2)
        self.uniform(f"{t}_lerp_fused.weight", n, 1, 1, 6, low=0, high=1)
        self.normal(f"{t}_k_k.weight", n, mean=0.85, spread=0.05)
        self.normal(f"{t}_k_a.weight", n, mean=1, spread=0.05)
        self.normal(f"{t}_r_k.weight", n, spread=0.1)
        for name in ("key", "value", "receptance", "output"):
            self.matrix(f"{t}_{name}", n, n)
        self.norm(i, "time_mix_ln", biased=True)
        self.uniform(f"blk.{i}.channel_mix_lerp_k.weight", n, 1, 1, low=0, high=1)
        self.matrix(f"blk.{i}.channel_mix_key", n, ff)
        self.matrix(f"blk.{i}.channel_mix_value", ff, n)

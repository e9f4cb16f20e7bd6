"""What a mixture of experts gives for one token alone, in NumPy: routing, experts and all around them.

A token that is alone attends to itself only, so attention is its values. Written for the models of
`arch_models` of a few architectures; which steps there are is seen in which tensors there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
from arch_models import ArchModel, weights
from numpy.typing import NDArray

Array = NDArray[numpy.floating[Any]]


@dataclass(frozen=True)
class Routing:
    """How an architecture weighs its experts: by a softmax over all, or a sigmoid of each."""

    sigmoid: bool = False
    normed: bool = True  # those that are taken count one together
    scale: float = 1.0
    groups: int = 1
    groups_used: int = 1


class Reference:
    """A model whose weights are all in memory."""

    def __init__(self, model: ArchModel, routing: Routing) -> None:
        self.model = model
        self.routing = routing
        self.w = {name: weights(name, shape).astype(numpy.float64) for name, shape in model.tensors.items()}

    def logits(self, token: int, experts: int) -> Array:
        """What follows a token that stands alone, where each layer takes so many experts."""
        x: Array = self.w["token_embd.weight"][token]
        for i in range(self.model.layers):
            h = self._norm(f"blk.{i}.attn_norm", x)
            x = x + self._through(f"blk.{i}.attn_output", self._values(i, h))
            h = self._norm(f"blk.{i}.ffn_norm", x)
            x = x + self._feed_forward(i, h, experts)
        end = "output" if "output.weight" in self.w else "token_embd"
        return self._through(end, self._norm("output_norm", x))

    def _norm(self, name: str, x: Array) -> Array:
        return x / numpy.sqrt((x * x).mean() + 1e-5) * self.w[f"{name}.weight"]

    def _through(self, name: str, x: Array) -> Array:
        y: Array = self.w[f"{name}.weight"] @ x
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def _values(self, i: int, x: Array) -> Array:
        if f"blk.{i}.attn_v.weight" in self.w:
            return self._through(f"blk.{i}.attn_v", x)
        together = self._through(f"blk.{i}.attn_qkv", x)
        return together[-len(together) // 3 :]  # as many key heads as query heads

    def _feed_forward(self, i: int, x: Array, experts: int) -> Array:
        b = f"blk.{i}.ffn"
        if f"{b}_gate_inp.weight" not in self.w:
            return self._gated(x, *(self.w[f"{b}_{part}.weight"] for part in ("gate", "up", "down")))
        total = numpy.zeros_like(x)
        for expert, weight in self._routed(i, x, experts):
            parts = (self.w[f"{b}_{part}_exps.weight"][expert] for part in ("gate", "up", "down"))
            total += weight * self._gated(x, *parts)
        if f"{b}_up_shexp.weight" in self.w:
            shared = self._gated(x, *(self.w[f"{b}_{part}_shexp.weight"] for part in ("gate", "up", "down")))
            gate = self.w.get(f"{b}_gate_inp_shexp.weight")
            total += shared if gate is None else shared * _sigmoid(gate.reshape(-1) @ x)
        return total

    def _routed(self, i: int, x: Array, experts: int) -> list[tuple[int, float]]:
        """The experts that a token goes to, and what each counts."""
        scores = self.w[f"blk.{i}.ffn_gate_inp.weight"] @ x
        shares = _sigmoid(scores) if self.routing.sigmoid else _softmax(scores)
        ranks = shares + self.w.get(f"blk.{i}.exp_probs_b.bias", 0)
        if self.routing.groups > 1:
            groups = ranks.reshape(self.routing.groups, -1)
            worth = numpy.sort(groups, axis=1)[:, -2:].sum(axis=1)
            left_out = numpy.argsort(-worth)[self.routing.groups_used :]
            ranks = ranks.copy()
            ranks.reshape(self.routing.groups, -1)[left_out] = -numpy.inf
        chosen = numpy.argsort(-ranks)[:experts]
        counts = shares[chosen] * self.routing.scale
        if self.routing.normed:
            counts = counts / shares[chosen].sum()
        return list(zip(chosen.tolist(), counts.tolist(), strict=True))

    def _gated(self, x: Array, gate: Array, up: Array, down: Array) -> Array:
        opened = gate @ x
        product: Array = down @ (opened * _sigmoid(opened) * (up @ x))
        return product


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + numpy.exp(-x))


def _softmax(x: Array) -> Array:
    powers: Array = numpy.exp(x - x.max())
    return powers / powers.sum()

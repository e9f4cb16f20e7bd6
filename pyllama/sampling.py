"""Choosing the next token, by llama.cpp's own samplers."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from .context import Context
from .errors import ContextError, UsageError
from .native.handle import Handle
from .native.loader import load


@dataclass(frozen=True)
class SamplerParams:
    """How the next token is chosen. The defaults are those of llama.cpp's own programs."""

    temperature: float = 0.8
    """0 takes the most likely token, always."""
    top_k: int = 40
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 0.95
    """Keep the most likely tokens that together have this probability; 1 keeps all."""
    min_p: float = 0.05
    """Keep tokens at least this likely relative to the best one; 0 keeps all."""
    seed: int | None = None
    """Seed of the random choice, 32 bits; None takes a new one each time."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise UsageError(f"temperature={self.temperature} has to be at least 0")
        if self.top_k < 0:
            raise UsageError(f"top_k={self.top_k} has to be at least 0")
        for name, value in (("top_p", self.top_p), ("min_p", self.min_p)):
            if not 0 <= value <= 1:
                raise UsageError(f"{name}={value} has to be between 0 and 1")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise UsageError(f"seed={self.seed} has to be between 0 and 2**32 - 1")


class Sampler(Handle):
    """A chain of llama.cpp's samplers."""

    def __init__(self, params: SamplerParams | None = None) -> None:
        params = params or SamplerParams()
        library = load()
        raw = library.raw
        self._raw = raw
        chain_params = raw.llama_sampler_chain_default_params()
        chain_params.no_perf = True
        super().__init__(raw.llama_sampler_chain_init(chain_params), raw.llama_sampler_free)
        self.params = params
        for sampler in self._stages(params):
            raw.llama_sampler_chain_add(self.ptr, sampler)

    def _stages(self, params: SamplerParams) -> list[object]:
        raw = self._raw
        if params.temperature == 0:
            return [raw.llama_sampler_init_greedy()]
        seed = secrets.randbits(32) if params.seed is None else params.seed
        return [
            raw.llama_sampler_init_top_k(params.top_k),
            raw.llama_sampler_init_top_p(params.top_p, 1),
            raw.llama_sampler_init_min_p(params.min_p, 1),
            raw.llama_sampler_init_temp(params.temperature),
            raw.llama_sampler_init_dist(seed),
        ]

    def sample(self, context: Context, index: int = -1) -> int:
        """Choose a token from the logits of output `index` (-1: the last) and accept it.

        Raises ContextError when that output has no logits: llama.cpp would end the process.
        """
        raw = self._raw
        with context.lock, self.lock:
            if not raw.llama_get_logits_ith(context.ptr, index):
                raise ContextError(f"the context has no logits for output {index}: decode tokens first")
            return int(raw.llama_sampler_sample(self.ptr, context.ptr, index))

    def reset(self) -> None:
        """Forget what was accepted, and start the random numbers again."""
        self._raw.llama_sampler_reset(self.ptr)

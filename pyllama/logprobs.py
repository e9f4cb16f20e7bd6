"""Logarithms of the probabilities that the model gave to tokens, before any sampler changed them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .candidates import Candidates
from .errors import ContextError, UsageError
from .native.loader import load

if TYPE_CHECKING:
    from .context import Context
    from .model import Model

MOST = 1000  # tokens beside the one that was taken


@dataclass(frozen=True)
class TokenLogprob:
    """A token and how likely the model thought it."""

    token: int
    bytes: bytes
    """What it stands for, special tokens written out; it need not be whole characters."""
    logprob: float | None
    """Natural logarithm of its probability; None for the first token of a prompt, which nothing foretold."""
    top: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens at its place, the best first, as many as were asked for."""

    @property
    def text(self) -> str:
        """The bytes as text; what is no whole character becomes U+FFFD."""
        return self.bytes.decode("utf-8", "replace")


def check_top(model: Model, top: int) -> None:
    """Raise UsageError for a number of likeliest tokens that cannot be had."""
    most = min(MOST, len(model.vocab))
    if not 0 <= top <= most:
        raise UsageError(f"logprobs={top} has to be between 0 and {most}")


class Scorer:
    """Computes log-probabilities with llama.cpp's samplers; close it with `close`."""

    def __init__(self, model: Model, top: int) -> None:
        check_top(model, top)
        library = load()
        self._raw = raw = library.raw
        self._vocab = model.vocab
        self._top = top
        self._candidates = Candidates(library, len(model.vocab))
        self._softmax = raw.llama_sampler_init_dist(0)
        self._best = raw.llama_sampler_init_greedy()
        self._first = raw.llama_sampler_init_top_k(top)

    def score(self, context: Context, token: int, index: int = -1) -> TokenLogprob:
        """Score `token` by the logits of an output; the caller holds the context's lock."""
        raw = self._raw
        logits = raw.llama_get_logits_ith(context.ptr, index)
        if not logits:
            raise ContextError(f"the context has no logits for output {index}: decode tokens first")
        array = self._candidates.fill(logits)
        raw.llama_sampler_apply(self._softmax, array)
        raw.llama_sampler_apply(self._best, array)
        best = array.data[array.selected]
        total = best.logit - math.log(best.p)  # the logarithm of the sum of all exponentials
        top: tuple[TokenLogprob, ...] = ()
        if self._top:
            raw.llama_sampler_apply(self._first, array)
            top = tuple(self._entry(array.data[i].id, array.data[i].logit - total) for i in range(self._top))
        return self._entry(token, logits[token] - total, top)

    def unscored(self, token: int) -> TokenLogprob:
        """Return the entry of a token that nothing foretold."""
        return self._entry(token, None)

    def _entry(self, token: Any, logprob: float | None, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        return TokenLogprob(int(token), self._vocab.piece(token, special=True), logprob, top)

    def close(self) -> None:
        """Free what C holds."""
        for sampler in (self._softmax, self._best, self._first):
            self._raw.llama_sampler_free(sampler)

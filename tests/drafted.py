"""Generations to compare: with drafts and without, in a context that held something and in a new one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
from same_bits import options, words

import pyllama
from pyllama import Generation

N_CTX = 256


def run(context: pyllama.Context, prompt: Sequence[int], **more: Any) -> Generation:
    """60 tokens, greedily, nothing reused: unless `more` says otherwise."""
    more = {"max_tokens": 60, "temperature": 0, "reuse": False, **more}
    return pyllama.generate(context, prompt, **more)


def prompt_of(seed: int, n: int = 12) -> list[int]:
    return words(numpy.random.default_rng(seed), n)


def same(one: Generation, other: Generation) -> None:
    """All that does not measure time or drafts."""
    for name in ("text", "tokens", "finish_reason", "stop", "logprobs", "prompt_tokens"):
        assert getattr(one, name) == getattr(other, name), name


def run_fresh(context: pyllama.Context, prompt: Sequence[int], **more: Any) -> Generation:
    """The same in a new context."""
    with context.model.context(**options(n_ctx=N_CTX)) as fresh:
        return run(fresh, prompt, **more)

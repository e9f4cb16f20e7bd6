"""Generation: the whole, pieces, settings, log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from typing_extensions import assert_type

import pyllama
from pyllama import Generation, Model, Piece, SamplerParams, TokenLogprob
from pyllama.errors import ContextError, DecodeError, UsageError

CAREFUL = SamplerParams(temperature=0, repeat_penalty=1.1, logit_bias={3: -math.inf})


def opened(path: str | Path) -> Model:
    """Both kinds of path are taken, and a callback may say nothing."""

    def progress(fraction: float) -> None:
        assert 0 <= fraction <= 1

    return Model(path, gpu_layers=0, devices=[], mmap=True, progress=progress)


def spoken(model: Model, prompt: str) -> Iterator[str]:
    """A generator of text out of one of pieces."""
    for piece in pyllama.stream(model, prompt, max_tokens=8, temperature=0.5, seed=1, stop=["\n", "."]):
        assert_type(piece, Piece)
        assert_type(piece.token, int | None)
        yield piece.text
        if piece.result is not None:
            assert_type(piece.result, Generation)


def scored(model: Model, prompt: str) -> float:
    """The sum of log-probabilities of an answer."""
    done = pyllama.generate(model, model.tokenize(prompt), max_tokens=4, params=CAREFUL, logprobs=2)
    assert_type(done.tokens, tuple[int, ...])
    assert_type(done.stop, str | None)
    assert_type(done.logprobs, tuple[TokenLogprob, ...] | None)
    assert model.detokenize(done.tokens) is not None
    return sum(entry.logprob or 0.0 for entry in done.logprobs or ())


def explained(model: Model, tokens: list[int]) -> str:
    """Errors have classes, and a DecodeError has a code."""
    try:
        with model.context(n_ctx=64, threads=1) as context:
            context.decode(tokens)
            return repr(context)
    except DecodeError as error:
        assert_type(error.code, int)
        return f"{error.code}: {error}"
    except (ContextError, UsageError) as error:
        return str(error)

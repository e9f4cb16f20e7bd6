"""Log-probabilities against the softmax of the logits, for generated tokens and for a prompt."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

import pyllama
from pyllama.errors import UsageError

pytestmark = pytest.mark.matrix


def _reference(model: pyllama.Model, tokens: list[int]) -> list[numpy.ndarray]:
    """The log-probabilities of every token of the vocabulary after each token."""
    with model.context(n_ctx=256, threads=1) as context, pyllama.Batch(len(tokens)) as batch:
        batch.extend(tokens, output=True)
        context.decode(batch)
        rows = [numpy.asarray(context.logits(i).copy(), numpy.float64) for i in range(len(tokens))]
    return [row - row.max() - math.log(numpy.exp(row - row.max()).sum()) for row in rows]


@pytest.mark.parametrize("top", [0, 1, 5])
def test_generated_tokens(tiny_model: Callable[[str], Path], top: int) -> None:
    """They are the model's own, whatever the sampler did."""
    params = pyllama.SamplerParams(temperature=2, top_k=3, seed=5, logit_bias={77: 3.0})
    with pyllama.Model(tiny_model("attention")) as model:
        prompt = model.tokenize("Hello there")
        plain = pyllama.generate(model, prompt, max_tokens=12, params=params)
        done = pyllama.generate(model, prompt, max_tokens=12, params=params, logprobs=top)
        assert plain.logprobs is None and done.tokens == plain.tokens and done.logprobs is not None
        rows = _reference(model, [*prompt, *done.tokens])[len(prompt) - 1 :]
        assert [entry.token for entry in done.logprobs] == list(done.tokens)
        for entry, row in zip(done.logprobs, rows, strict=False):
            assert entry.logprob == pytest.approx(row[entry.token], abs=0.02)
            assert entry.bytes == model.vocab.piece(entry.token, special=True)
            assert len(entry.top) == top
            best = sorted(row)[::-1][:top]
            assert [one.logprob for one in entry.top] == pytest.approx(best, abs=0.02)
            assert all(one.top == () and row[one.token] >= best[-1] - 0.02 for one in entry.top)


def test_pieces_carry_them(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model:
        pieces = list(pyllama.stream(model, "Hello", max_tokens=5, temperature=0, logprobs=1))
    result = pieces[-1].result
    assert result is not None
    assert tuple(piece.logprob for piece in pieces[:-1]) == result.logprobs
    for entry in result.logprobs or ():
        assert entry.top[0].token == entry.token and entry.top[0].logprob == entry.logprob
        assert entry.text == entry.bytes.decode("utf-8", "replace")


@pytest.mark.parametrize("kind", ["attention", "mamba2", "swa"])
def test_a_prompt(tiny_model: Callable[[str], Path], kind: str) -> None:
    """Longer than one batch of outputs, and without generating anything."""
    text = "The quick brown fox jumps over the lazy dog, and then it sleeps."
    with pyllama.Model(tiny_model(kind)) as model:
        tokens = model.tokenize(text)
        assert len(tokens) > 64
        done = pyllama.generate(model, text, max_tokens=0, echo=True, logprobs=2)
        assert (done.text, done.tokens, done.logprobs) == (text, (), ())
        scores = done.prompt_logprobs
        assert scores is not None and [one.token for one in scores] == tokens
        assert scores[0].logprob is None and scores[0].top == ()
        rows = _reference(model, tokens)
        for entry, row in zip(scores[1:], rows, strict=False):
            assert entry.logprob == pytest.approx(row[entry.token], abs=0.05)
            assert len(entry.top) == 2
        both = pyllama.generate(model, text, max_tokens=3, temperature=0, echo=True, logprobs=2)
        assert both.prompt_logprobs == scores and both.logprobs is not None and len(both.logprobs) == 3
        bare = pyllama.generate(model, text, max_tokens=3, temperature=0)
        assert both.tokens == bare.tokens and both.text == text + bare.text


def test_without_numpy(tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    with pyllama.Model(tiny_model("attention")) as model:
        quick = pyllama.generate(model, "Hello", max_tokens=4, temperature=0, logprobs=3)
        monkeypatch.setitem(sys.modules, "numpy", None)
        assert (
            pyllama.generate(model, "Hello", max_tokens=4, temperature=0, logprobs=3).logprobs
            == quick.logprobs
        )


def test_numbers_that_cannot_be(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model:
        for n in (-1, 321, 2**40):
            with pytest.raises(UsageError, match=f"logprobs={n}"):
                pyllama.stream(model, "Hello", logprobs=n)
        done = pyllama.generate(model, "Hello", max_tokens=1, logprobs=320)
        assert done.logprobs is not None
        assert sum(math.exp(one.logprob or 0) for one in done.logprobs[0].top) == pytest.approx(1)

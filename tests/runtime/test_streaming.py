"""`stream` and `generate`: how they end, what they refuse, and what they leave behind."""

from __future__ import annotations

import gc
import json
import weakref
from typing import Any

import pytest

import pyllama
from pyllama import SamplerParams
from pyllama.errors import ClosedError, ContextError, DecodeError

CHAT = "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.matrix
def test_pieces_put_together_are_the_generation(child: Any) -> None:
    code = """
with pyllama.Model(MODEL) as model:
    pieces = list(pyllama.stream(model, "Once upon a time", max_tokens=12, temperature=0))
    whole = pyllama.generate(model, "Once upon a time", max_tokens=12, temperature=0)
print(json.dumps([[p.text, p.token, p.finish_reason] for p in pieces]))
print(json.dumps([whole.text, whole.tokens, whole.finish_reason, whole.prompt_tokens]))
"""
    pieces, whole = map(json.loads, child(code).stdout.splitlines())
    assert "".join(text for text, _, _ in pieces) == whole[0] != ""
    assert [token for _, token, _ in pieces[:-1]] == whole[1]
    assert len(whole[1]) == 12 and whole[3] == 4
    assert [reason for _, _, reason in pieces] == [None] * 12 + ["length"]
    assert pieces[-1][1] is None


def test_end_of_the_models_answer(model: pyllama.Model) -> None:
    done = pyllama.generate(model, CHAT, max_tokens=200, temperature=0, parse_special=True)
    assert done.finish_reason == "stop"
    assert 0 < len(done.tokens) < 200
    assert not any(model.vocab.is_eog(token) for token in done.tokens)
    assert "<|im_end|>" not in done.text


def test_no_tokens_asked_for(model: pyllama.Model) -> None:
    done = pyllama.generate(model, "Hello", max_tokens=0)
    assert (done.text, done.tokens, done.finish_reason) == ("", (), "length")
    assert done.tokens_per_second == 0


def test_seeds(model: pyllama.Model) -> None:
    def text(seed: int | None) -> str:
        return pyllama.generate(model, "I think", max_tokens=16, temperature=1.5, seed=seed).text

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1
    assert len({text(None) for _ in range(4)}) > 1


def test_temperature_zero_ignores_the_seed(model: pyllama.Model) -> None:
    one = pyllama.generate(model, "I think", max_tokens=8, temperature=0, seed=1)
    assert one.tokens == pyllama.generate(model, "I think", max_tokens=8, temperature=0, seed=2).tokens
    params = SamplerParams(temperature=0)
    assert one.tokens == pyllama.generate(model, "I think", max_tokens=8, params=params).tokens


def test_tokens_instead_of_text(model: pyllama.Model) -> None:
    text = pyllama.generate(model, "I think", max_tokens=8, temperature=0)
    assert (
        pyllama.generate(model, model.tokenize("I think"), max_tokens=8, temperature=0).tokens == text.tokens
    )


def test_context_is_cleared_first(model: pyllama.Model) -> None:
    with model.context(n_ctx=64, threads=1) as context:
        first = pyllama.generate(context, "I think", max_tokens=8, temperature=0)
        context.decode(model.tokenize("something else"))
        assert pyllama.generate(context, "I think", max_tokens=8, temperature=0).tokens == first.tokens


def test_prompt_longer_than_the_context(model: pyllama.Model) -> None:
    with model.context(n_ctx=64, threads=1) as context:
        size = context.n_ctx
        with pytest.raises(ContextError, match=rf"{size + 1} tokens.* holds {size}\b"):
            pyllama.generate(context, [1] * (size + 1), max_tokens=1)
    long = model.n_ctx_train + 1
    with pytest.raises(ContextError, match=rf"{long} tokens.* holds {model.n_ctx_train}\b"):
        pyllama.generate(model, [1] * long, max_tokens=1)


def test_full_context_ends_the_text(model: pyllama.Model) -> None:
    with model.context(n_ctx=64, threads=1) as context:
        prompt = [1] * (context.n_ctx - 3)
        done = pyllama.generate(context, prompt, max_tokens=50, temperature=0)
        assert done.finish_reason == "length"
        assert len(done.tokens) == 4, "three are read again, of the last one only the choice is needed"


@pytest.mark.matrix
def test_full_sequence_ends_the_text(child: Any) -> None:
    """With several sequences, one may hold its share only."""
    code = """
with pyllama.Model(MODEL) as model, model.context(n_ctx=1024, n_seq_max=4) as context:
    share = context.n_ctx_seq
    done = pyllama.generate(context, [1] * (share - 3), max_tokens=50, temperature=0)
    try:
        pyllama.generate(context, [1] * (share + 1), max_tokens=50)
    except pyllama.errors.ContextError as error:
        print(json.dumps([context.n_ctx, share, len(done.tokens), done.finish_reason, str(error)]))
"""
    total, share, made, reason, error = json.loads(child(code).stdout)
    assert total == 4 * share
    assert (made, reason) == (4, "length")
    assert f"{share + 1} tokens" in error and f"holds {share}:" in error


def test_answer_of_any_length_gets_no_larger_context(model: pyllama.Model) -> None:
    """A context for 2**40 tokens could not be had, one for 10**6 would take 20 GB."""
    for n in (10**6, 2**40):
        pieces = pyllama.stream(model, "Hello", max_tokens=n, temperature=0)
        assert next(pieces).token is not None
        pieces.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": -1}, "max_tokens=-1"),
        ({"temperature": -0.5}, "temperature=-0.5"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, f"seed={2**32}"),
        ({"seed": 2**32 - 1}, "a random one to llama.cpp"),
    ],
)
def test_values_out_of_range(model: pyllama.Model, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pyllama.stream(model, "Hello", **options)  # at once, not at the first piece


@pytest.mark.parametrize(
    "options", [{"top_k": -1}, {"top_p": 1.5}, {"min_p": -0.1}, {"top_p": float("nan")}, {"seed": 2**40}]
)
def test_sampler_values_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SamplerParams(**options)


def test_empty_prompt(model: pyllama.Model) -> None:
    for prompt in ("", []):
        with pytest.raises(ContextError, match="no tokens"):
            pyllama.stream(model, prompt)


def test_invalid_tokens(model: pyllama.Model) -> None:
    size = len(model.vocab)
    with model.context(n_ctx=64, threads=1) as context:
        for token in (-1, size, 2**40):
            with pytest.raises(ContextError, match=f"token {token} is not in a vocabulary of {size}"):
                context.decode([1, token])
        with pytest.raises(ContextError, match="no tokens"):
            context.decode([])
        context.decode([1, size - 1])


def test_decoding_into_a_full_context(model: pyllama.Model) -> None:
    with model.context(n_ctx=64, threads=1) as context:
        context.decode([1] * context.n_ctx)
        with pytest.raises(DecodeError, match="the context is full") as raised:
            context.decode([2])
        assert raised.value.code == 1
        assert "1 tokens" in str(raised.value)
        context.clear()
        context.decode([2])


@pytest.mark.matrix
def test_sampling_without_logits(child: Any) -> None:
    """llama.cpp ends the process over this."""
    code = """
with pyllama.Model(MODEL) as model, model.context(n_ctx=64) as context, pyllama.Sampler() as sampler:
    for index in (-1, 0, 7):
        try:
            sampler.sample(context, index)
        except pyllama.errors.ContextError as error:
            print(error)
    context.decode([1, 2, 3])
    assert 0 <= sampler.sample(context) < len(model.vocab)
    try:
        sampler.sample(context, 7)
    except pyllama.errors.ContextError as error:
        print(error)
"""
    lines = child(code).stdout.splitlines()
    assert len(lines) == 4 and all("decode tokens first" in line for line in lines)


def test_abandoned_stream_frees_its_context(model: pyllama.Model) -> None:
    before = set(model._owned.children)
    pieces = pyllama.stream(model, "Hello", max_tokens=20, temperature=0)
    next(pieces)
    (made,) = set(model._owned.children) - before
    assert made.ptr is not None
    del pieces
    gc.collect()
    assert made.ptr is None
    assert not any(child.ptr is not None for child in set(model._owned.children) - before)


def test_stream_that_was_never_started_makes_no_context(model: pyllama.Model) -> None:
    before = set(model._owned.children)
    pieces = pyllama.stream(model, "Hello", max_tokens=20)
    assert set(model._owned.children) == before
    del pieces


def test_stream_over_a_context_leaves_it_open(model: pyllama.Model) -> None:
    with model.context(n_ctx=64, threads=1) as context:
        pieces = pyllama.stream(context, "Hello", max_tokens=20, temperature=0)
        next(pieces)
        seen = weakref.ref(pieces)
        del pieces
        gc.collect()
        assert seen() is None and not context.closed
        context.decode([1])


def test_closing_under_a_stream(test_model: Any) -> None:
    model = pyllama.Model(test_model)
    pieces = pyllama.stream(model, "Hello", max_tokens=20, temperature=0)
    next(pieces)
    model.close()
    with pytest.raises(ClosedError):
        next(pieces)

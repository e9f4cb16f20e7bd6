"""Stop strings, echo, counters, and what a context keeps from one generation for the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from arch_child import load
from arch_models import learn

import pyllama
from pyllama import Generation, SamplerParams
from pyllama.errors import ContextError, DecodeError, UsageError

pytestmark = pytest.mark.matrix

PROMPT = "Once upon a time"


def _greedy(source: Any, prompt: Any, n: int = 12, **options: Any) -> Generation:
    return pyllama.generate(source, prompt, max_tokens=n, temperature=0, **options)


@pytest.fixture
def plain(model: pyllama.Model) -> Generation:
    return _greedy(model, PROMPT, 24)


def test_a_stop_string_across_tokens(model: pyllama.Model, plain: Generation) -> None:
    """Every part of the text that lies across the border of two tokens can be what stops it."""
    vocab = model.vocab
    pieces = [vocab.piece(token).decode() for token in plain.tokens]
    for i in range(1, 8):
        before = "".join(pieces[:i])
        stop = pieces[i - 1][-2:] + pieces[i][:2]
        if plain.text.index(stop) != len(before) - len(pieces[i - 1][-2:]):
            continue
        done = _greedy(model, PROMPT, 24, stop=["never said", stop])
        assert (done.finish_reason, done.stop) == ("stop", stop)
        assert done.text == plain.text[: plain.text.index(stop)]
        assert done.tokens == plain.tokens[: i + 1], "the tokens of the stop string are there"
        streamed = list(pyllama.stream(model, PROMPT, max_tokens=24, temperature=0, stop=stop))
        assert "".join(piece.text for piece in streamed) == done.text
        assert streamed[-1].result is not None and streamed[-1].result.stop == stop


def test_what_was_held_back_is_given_in_the_end(model: pyllama.Model, plain: Generation) -> None:
    stop = plain.text[-3:] + "NEVER"
    done = _greedy(model, PROMPT, 24, stop=stop)
    assert (done.text, done.finish_reason, done.stop) == (plain.text, "length", None)
    pieces = list(pyllama.stream(model, PROMPT, max_tokens=24, temperature=0, stop=stop))
    assert "".join(piece.text for piece in pieces) == plain.text
    assert pieces[-1].token is None and pieces[-1].text.endswith(plain.text[-3:])


def test_stop_strings_are_not_looked_for_in_the_prompt(model: pyllama.Model, plain: Generation) -> None:
    assert _greedy(model, PROMPT, 24, stop="upon a", echo=True).text == PROMPT + plain.text


def test_echo(model: pyllama.Model, plain: Generation) -> None:
    done = _greedy(model, PROMPT, 24, echo=True)
    assert done.text == PROMPT + plain.text and done.tokens == plain.tokens
    tokens = model.tokenize(PROMPT)
    assert _greedy(model, tokens, 24, echo=True).text == PROMPT + plain.text
    first = next(iter(pyllama.stream(model, PROMPT, echo=True)))
    assert (first.text, first.token) == (PROMPT, None)


def test_wrong_values_are_told_before_anything_is_made(model: pyllama.Model) -> None:
    before = set(model._owned.children)
    for options, error in (
        ({"stop": ""}, UsageError),
        ({"stop": ["a", ""]}, UsageError),
        ({"params": SamplerParams(grammar="nonsense")}, UsageError),
        ({"params": SamplerParams(logit_bias={10**6: 1.0})}, UsageError),
        ({"logprobs": -1}, UsageError),
    ):
        with pytest.raises(error):
            pyllama.stream(model, PROMPT, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="decode them to a str"):
        pyllama.stream(model, b"bytes are a sequence of numbers, too")
    assert set(model._owned.children) == before


def test_counters(model: pyllama.Model) -> None:
    with model.context(n_ctx=256, threads=1) as context:
        done = _greedy(context, PROMPT)
        assert (done.prompt_tokens, done.cached_tokens, len(done.tokens)) == (4, 0, 12)
        assert 0 < done.prompt_seconds < done.seconds
        assert done.tokens_per_second == pytest.approx(11 / (done.seconds - done.prompt_seconds))
        assert done.prompt_tokens_per_second == pytest.approx(4 / done.prompt_seconds)


@pytest.mark.parametrize("kind", ["attention", "swa", "mamba2", "rwkv7", "hybrid", "moe"])
@pytest.mark.parametrize("swa_full", [True, False])
def test_what_is_known_is_not_read_again(
    tiny_model: Callable[[str], Path], kind: str, swa_full: bool
) -> None:
    """Turns of a chat, an edited prompt, the same prompt again: fewer tokens read, the same answer."""
    if kind != "swa" and not swa_full:
        pytest.skip("the same as with it: the model has no window")
    with (
        pyllama.Model(tiny_model(kind)) as model,
        model.context(n_ctx=512, threads=1, swa_full=swa_full) as context,
        model.context(n_ctx=512, threads=1, swa_full=swa_full) as fresh,
    ):
        first = model.tokenize("The quick brown fox jumps over the lazy dog and sleeps.")

        def ask(tokens: list[int]) -> Generation:
            done = _greedy(context, tokens, 8)
            # Rounding differs with how the tokens were put together, and the tiny models are sure of nothing.
            known = _greedy(fresh, tokens, 8, reuse=False)
            assert done.tokens[:2] == known.tokens[:2] and known.cached_tokens == 0
            return done

        one = ask(first)
        assert one.cached_tokens == 0
        second = [*first, *one.tokens, *model.tokenize(" Why?", add_special=False)]
        two = ask(second)
        # Whether the last token was decoded depends on how the text ended.
        assert len(first) + len(one.tokens) - 1 <= two.cached_tokens <= len(first) + len(one.tokens)
        again = ask(second)
        # A few tokens are rather read again than that a state is saved after them.
        assert again.cached_tokens == (len(second) - 1 if context.rewinds else two.cached_tokens)
        edited = [*second[:-2], *model.tokenize(" Where?", add_special=False)]
        three = ask(edited)
        if context.rewinds:
            assert three.cached_tokens == len(second) - 2
        else:
            # The second prompt departed from the first text where that ended: a state was saved there.
            assert three.cached_tokens == two.cached_tokens
        assert ask(model.tokenize("Something else")).cached_tokens in (0, 1)


def test_who_else_used_the_context(tiny_model: Callable[[str], Path]) -> None:
    """Whatever pyllama did to it in between, the answer is that of an empty context."""
    with (
        pyllama.Model(tiny_model("attention")) as model,
        model.context(n_ctx=512, n_seq_max=2, kv_unified=True, threads=1) as context,
    ):
        first = model.tokenize("The quick brown fox")
        expected = _greedy(context, first, 8, reuse=False).tokens
        other, seq = context.sequence(1), context.sequence(0)

        def checkpoints() -> None:
            saved = seq.checkpoint()
            seq.feed([50])
            seq.restore(saved)

        for change, known in (
            (lambda: seq.feed([50, 51]), len(first) - 1),
            (lambda: seq.remove(2), 2),
            (lambda: seq.remove(2, 4), 0),
            (seq.clear, 0),
            (context.clear, 0),
            (lambda: context.decode([50]), 0),
            (lambda: (other.feed([60, 61]), other.copy_to(seq)), 0),
            (checkpoints, len(first) - 1),
            (lambda: (checkpoints(), other.clear()), 0),
            (lambda: context.set_loras([]), 0),
        ):
            _greedy(context, first, 8)
            change()
            done = _greedy(context, first, 8)
            assert done.cached_tokens == known
            assert done.tokens == expected if not known else done.tokens[:2] == expected[:2]
            assert other.length == 0, "other sequences are cleared"


def test_an_abandoned_stream_leaves_what_it_read(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=512, threads=1) as context:
        first = model.tokenize("The quick brown fox")
        expected = _greedy(context, first, 8, reuse=False)
        for taken in range(1, 5):
            pieces = pyllama.stream(context, first, max_tokens=8, temperature=0)
            made = [next(pieces).token for _ in range(taken)]
            pieces.close()  # type: ignore[attr-defined]
            assert made == list(expected.tokens[:taken])
            longer = [*first, *expected.tokens]
            done = _greedy(context, longer, 2)
            assert done.cached_tokens == len(first) + taken - 1


def test_a_failed_read_is_not_taken_for_a_good_one(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=512, threads=1) as context:
        first = model.tokenize("The quick brown fox")
        expected = _greedy(context, first, 8, reuse=False)
        with pytest.raises(ContextError, match="not in a vocabulary"):
            _greedy(context, [*first, 10**6], 8)
        assert _greedy(context, first, 8).tokens == expected.tokens


def test_other_experts(tiny_model: Callable[[str], Path]) -> None:
    """What was read with other experts is read again."""
    with pyllama.Model(tiny_model("moe")) as model, model.context(n_ctx=512, threads=1) as context:
        tokens = model.tokenize("The quick brown fox jumps over")
        context.set_experts(1)
        fresh = _greedy(context, tokens, 8, reuse=False, logprobs=0)
        context.set_experts(0)
        _greedy(context, tokens, 1, reuse=False)
        context.set_experts(1)
        again = _greedy(context, tokens, 8, logprobs=0)
        assert (again.cached_tokens, again.logprobs) == (0, fresh.logprobs)


ON = SamplerParams(temperature=0, ignore_eos=True)


@pytest.mark.parametrize("draft", [None, pyllama.PromptLookup()], ids=["plain", "drafts"])
@pytest.mark.parametrize("kind", ["attention", "hybrid"])
def test_a_cache_that_is_full_ends_the_text(tiny_model: Callable[[str], Path], kind: str, draft: Any) -> None:
    """With less room than n_ctx: as many tokens as fit, and what follows goes on from them."""
    options: dict[str, Any] = {"max_tokens": 200, "params": ON, "draft": draft}
    with (
        pyllama.Model(tiny_model(kind)) as model,
        model.context(n_ctx=512, kv_tokens=64, threads=1) as context,
    ):
        done = pyllama.generate(context, "abc", **options)
        assert done.finish_reason == "length"
        assert done.prompt_tokens + len(done.tokens) == 64 + 1
        prompt = [*model.tokenize("abc"), *done.tokens]
        again = pyllama.generate(context, prompt[:64], **options)
        assert len(again.tokens) == 1 and again.finish_reason == "length"
        assert again.cached_tokens == (63 if context.rewinds else 3)
        with pytest.raises(DecodeError, match=r"65 tokens could not be decoded \(code 1\)"):
            pyllama.generate(context, prompt, **options, reuse=False)


def test_a_model_that_knows_few_positions(tmp_path: Path) -> None:
    path = tmp_path / "gpt2.gguf"
    learn("gpt2", tmp_path, load).write(path)
    with pyllama.Model(path) as model, model.context(n_ctx=512, threads=1) as context:
        most = model.n_positions
        assert 0 < most < context.n_ctx_seq
        done = pyllama.generate(context, [5, 6, 7], max_tokens=500, params=ON)
        assert (3 + len(done.tokens), done.finish_reason) == (most + 1, "length")
        with pytest.raises(ContextError, match=f"gpt2 knows {most} positions"):
            pyllama.generate(context, [5] * (most + 1), max_tokens=1)


def test_another_generation_before_the_first_token(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two of its calls, as another thread may: it is told, and does not go on in the other's text."""
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=512, threads=1) as context:
        accept, others = pyllama.Sampler.accept_prompt, iter(["A lazy dog"])

        def between(sampler: pyllama.Sampler, tokens: Any) -> None:
            for other in others:
                pyllama.generate(context, other, max_tokens=4, params=ON)
            accept(sampler, tokens)

        with monkeypatch.context() as patch:
            patch.setattr(pyllama.Sampler, "accept_prompt", between)
            with pytest.raises(ContextError, match="one context per generation"):
                pyllama.generate(context, "The quick brown fox", max_tokens=4, params=ON)
        assert pyllama.generate(context, "A lazy dog", max_tokens=4, params=ON).cached_tokens > 0


def test_who_reads_nothing_vouches_for_nothing(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=512, threads=1) as context:
        first = model.tokenize("The quick brown fox")
        expected = pyllama.generate(context, first, max_tokens=4, params=ON)
        held = context.sequence(0).length
        context.clear()
        context.decode([50] * held)
        pyllama.generate(context, "x", max_tokens=0)
        again = pyllama.generate(context, first, max_tokens=4, params=ON)
        assert (again.cached_tokens, again.tokens) == (0, expected.tokens)


def test_who_was_ousted_vouches_for_nothing(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=512, threads=1) as context:
        alone = pyllama.generate(context, "Once upon a time", max_tokens=12, params=ON, reuse=False)
        one = pyllama.stream(context, "The capital", max_tokens=12, params=ON)
        next(one)
        two = pyllama.stream(context, "Once upon a time", max_tokens=12, params=ON)
        made = [next(two).token]
        with pytest.raises(ContextError, match="one context per generation"):
            next(one)
        three = pyllama.generate(context, "Once upon a time there", max_tokens=2, params=ON)
        assert three.cached_tokens == 0, "the second one was under way"
        with pytest.raises(ContextError, match="one context per generation"):
            made += [piece.token for piece in two]
        assert made == list(alone.tokens[: len(made)])


def test_an_edit_on_the_way(tiny_model: Callable[[str], Path]) -> None:
    """Adapters and states that come while a text is written are not taken for what was there before."""
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=512, threads=1) as context:
        first, other = model.tokenize("The quick brown fox"), model.tokenize("A lazy dog sleeps")
        context.sequence(0).feed(other)
        saved = context.sequence(0).dumps(tokens=other)
        for edit in (lambda: context.set_loras([]), lambda: context.set_control_vector(None)):
            pieces = pyllama.stream(context, first, max_tokens=8, params=ON)
            next(pieces)
            edit()
            assert [piece.token for piece in pieces][-1] is None
            assert pyllama.generate(context, first, max_tokens=8, params=ON).cached_tokens == 0
        pieces = pyllama.stream(context, first, max_tokens=8, params=ON)
        next(pieces)
        context.sequence(0).loads(saved)
        assert pyllama.generate(context, [*other, 50], max_tokens=8, params=ON).cached_tokens == len(other)
        with pytest.raises(ContextError, match="one context per generation"):
            next(pieces)


def test_special_tokens_in_user_text_are_text(model: pyllama.Model) -> None:
    text = "<|im_end|>"
    assert pyllama.generate(model, text, max_tokens=1).prompt_tokens > 1
    assert pyllama.generate(model, text, max_tokens=1, parse_special=True).prompt_tokens == 1

"""Many prompts at once: each one gets what it would get alone, whatever the memory, however little room."""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders

import pyllama
from pyllama import Generation, SamplerParams, generate_many, stream_many
from pyllama.errors import ClosedError, ContextError, GenerationErrors, UsageError

pytestmark = pytest.mark.matrix

# Sums of floats come out differently for batches of other shapes. Where two tokens are this close, either may
# come, and what follows is another text.
TIE = 0.02
STEM = "The quick brown fox jumps over the lazy dog, and then. "
RANDOM = random.Random(7)
PROMPTS = [
    *("".join(RANDOM.choice("abcdefgh ") for _ in range(RANDOM.randint(1, 80))) for _ in range(9)),
    *(STEM + letter for letter in string.ascii_letters[:5]),
]


def same_or_tied(
    context: pyllama.Context, prompt: Any, one: Sequence[int], other: Sequence[int], tie: float = TIE
) -> bool:
    """Say whether two greedy answers are equal, or part at two tokens that are about as likely."""
    if tuple(one) == tuple(other):
        return True
    i = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    tokens = [*(context.model.tokenize(prompt) if isinstance(prompt, str) else prompt), *one[:i]]
    scored = pyllama.generate(
        context, tokens, max_tokens=1, params=SamplerParams(temperature=0, ignore_eos=False), logprobs=2
    ).logprobs
    if not scored:  # the end of the text is as good as a token
        return True
    first, second = scored[0].top
    assert first.logprob is not None and second.logprob is not None
    return {one[i], other[i]} == {first.token, second.token} and first.logprob - second.logprob < tie


def check(
    model: pyllama.Model, prompts: Sequence[Any], found: Sequence[Generation], n: int, tie: float = TIE
) -> None:
    """Compare with what each prompt gives alone."""
    assert len(found) == len(prompts)
    with model.context(n_ctx=1024) as context:
        for prompt, one in zip(prompts, found, strict=True):
            alone = pyllama.generate(context, prompt, max_tokens=n, temperature=0, reuse=False)
            assert one.prompt_tokens == alone.prompt_tokens
            assert same_or_tied(context, prompt, alone.tokens, one.tokens, tie)
            if one.tokens == alone.tokens:
                assert (one.text, one.finish_reason) == (alone.text, alone.finish_reason)


SOURCES: dict[str, dict[str, Any]] = {
    "one after the other": {"n_ctx": 512},
    "shared cells": {"n_ctx": 1024, "n_seq_max": 4, "kv_unified": True},
    "streams": {"n_ctx": 2048, "n_seq_max": 4},
    "small steps": {"n_ctx": 1024, "n_seq_max": 4, "kv_unified": True, "n_batch": 24, "n_ubatch": 8},
    "little room": {"n_ctx": 1024, "n_seq_max": 6, "kv_unified": True, "kv_tokens": 160},
    "little room in streams": {"n_ctx": 1536, "n_seq_max": 6, "kv_tokens": 800, "kv_demand_paged": True},
}


@pytest.mark.parametrize("kind", ["attention", "swa", "mamba2", "rwkv7", "hybrid", "hybrid-swa"])
@pytest.mark.parametrize("how", SOURCES)
def test_as_if_alone(tiny_model: Callable[[str], Path], kind: str, how: str) -> None:
    with pyllama.Model(tiny_model(kind)) as model:
        with model.context(**SOURCES[how]) as context:
            found = generate_many(context, PROMPTS, max_tokens=30, temperature=0)
            assert [context.sequence(i).length for i in range(context.n_seq_max)] == [0] * context.n_seq_max
            again = generate_many(context, PROMPTS, max_tokens=30, temperature=0)
        check(model, PROMPTS, found, 30)
        assert [one.tokens for one in again] == [one.tokens for one in found]
        shared = [one.cached_tokens for one in found]
        assert shared[: len(PROMPTS) - 5] == [0] * (len(PROMPTS) - 5)
        if kind in ("attention", "swa") and how == "shared cells":
            assert shared[-4:] == [len(model.tokenize(STEM))] * 4
        if kind not in ("attention", "swa"):
            assert not any(shared), "a recurrent state cannot be taken back to where two prompts part"


def test_a_cut_window(tiny_model: Callable[[str], Path]) -> None:
    options = {"n_ctx": 1024, "n_seq_max": 4, "kv_unified": True, "swa_full": False}
    with pyllama.Model(tiny_model("swa")) as model, model.context(**options) as context:
        check(model, PROMPTS, generate_many(context, PROMPTS, max_tokens=30, temperature=0), 30)


def test_room_that_runs_out_costs_time_and_no_request(tiny_model: Callable[[str], Path]) -> None:
    """Six texts of 90 tokens in 160 cells: some are put back, and read again with what they had made."""
    prompts = [letter * 10 for letter in "abcdef"]
    with pyllama.Model(tiny_model("attention")) as model:
        params = SamplerParams(temperature=0, ignore_eos=True)
        with model.context(n_ctx=1024, n_seq_max=6, kv_unified=True, kv_tokens=160) as context:
            found = generate_many(context, prompts, max_tokens=80, params=params)
            tight = context.decodes
        with model.context(n_ctx=1024, n_seq_max=6, kv_unified=True) as context:
            plenty = generate_many(context, prompts, max_tokens=80, params=params)
            assert context.decodes < tight
        assert [len(one.tokens) for one in found] == [80] * 6
        with model.context(n_ctx=512) as context:
            for prompt, one, other in zip(prompts, found, plenty, strict=True):
                assert same_or_tied(context, prompt, one.tokens, other.tokens)


def test_one_that_fills_the_whole_context(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model:
        params = SamplerParams(temperature=0, ignore_eos=True)
        with model.context(n_ctx=512, n_seq_max=2, kv_unified=True, kv_tokens=64) as context:
            found = generate_many(context, ["abc", "defg" * 5], max_tokens=100, params=params)
        for one in found:
            assert one.finish_reason == "length" and one.prompt_tokens + len(one.tokens) == 65
        with model.context(n_ctx=256, n_seq_max=1) as context:
            (one,) = generate_many(context, ["abc"], max_tokens=10_000, params=params)
            alone = pyllama.generate(context, "abc", max_tokens=10_000, params=params)
        assert len(one.tokens) == len(alone.tokens) and one.finish_reason == "length"


def test_random_choices_depend_on_the_seed_alone(tiny_model: Callable[[str], Path]) -> None:
    """With the smallest of kernels, and temperature low enough that rounding does not matter."""
    with pyllama.Model(tiny_model("mamba2")) as model:
        params = [SamplerParams(temperature=0.7, seed=i, repeat_penalty=1.3) for i in range(len(PROMPTS))]
        few = generate_many(model, PROMPTS, max_tokens=20, params=params, max_sequences=3)
        again = generate_many(model, PROMPTS, max_tokens=20, params=params, max_sequences=3)
    assert [one.tokens for one in few] == [one.tokens for one in again]
    assert len({one.tokens for one in few}) > len(few) // 2


def test_each_prompt_with_its_own_wishes(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model:
        params = [
            SamplerParams(temperature=0),
            SamplerParams(temperature=0, grammar='root ::= "yes" | "no"'),
            SamplerParams(temperature=0, logit_bias={model.tokenize("q", add_special=False)[-1]: 100.0}),
            SamplerParams(temperature=0, ignore_eos=True),
        ]
        found = generate_many(model, ["ab"] * 4, max_tokens=[5, 9, 6, 0], params=params, logprobs=2)
        assert found[1].text in ("yes", "no") and found[1].finish_reason == "stop"
        assert found[2].text == "q" * 6 and (found[3].tokens, found[3].finish_reason) == ((), "length")
        alone = pyllama.generate(model, "ab", max_tokens=5, temperature=0, logprobs=2)
        assert found[0].logprobs is not None and alone.logprobs is not None
        assert len(found[0].logprobs) == len(found[0].tokens)
        assert [len(entry.top) for entry in found[0].logprobs] == [2] * len(found[0].tokens)
        one, other = found[0].logprobs[0].logprob, alone.logprobs[0].logprob
        assert one is not None and other is not None and abs(one - other) < 0.01
        stopped = generate_many(model, ["ab", "ab"], max_tokens=6, params=params[2], stop="qq")
        assert [(one.text, one.stop, len(one.tokens)) for one in stopped] == [("", "qq", 2)] * 2


def _bad(model: pyllama.Model) -> tuple[list[Any], list[SamplerParams]]:
    fine = SamplerParams(temperature=0, ignore_eos=True)
    prompts: list[Any] = ["ab", [], "cd", "x" * 600, "ef", [5, 10**6], "gh", "ij"]
    params = [fine] * len(prompts)
    params[4] = SamplerParams(grammar="root ::= (")
    params[6] = SamplerParams(temperature=0, grammar='root ::= "a" [\\U0010FFFF-\\U0010FFFF]')
    return prompts, params


def test_what_fails_does_not_hurt_the_others(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model:
        prompts, params = _bad(model)
        with model.context(n_ctx=512, n_seq_max=3, kv_unified=True) as context:
            with pytest.raises(
                GenerationErrors, match=r"[45] of 8 prompts failed.*prompt 1: .*no tokens"
            ) as found:
                generate_many(context, prompts, max_tokens=12, params=params)
            errors, results = found.value.errors, found.value.results
            assert {1, 3, 4, 5} <= set(errors) <= {1, 3, 4, 5, 6}
            assert "601 tokens" in str(errors[3]) and isinstance(errors[4], UsageError)
            assert "vocabulary" in str(errors[5])
            for i, result in enumerate(results):
                assert (result is None) == (i in errors)
            for i in (0, 2, 7):
                result = results[i]
                assert result is not None and len(result.tokens) == 12
                alone = pyllama.generate(context, prompts[i], max_tokens=12, params=params[i], reuse=False)
                assert same_or_tied(context, prompts[i], alone.tokens, result.tokens)


def test_pieces_come_as_they_are_made(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model:
        prompts, params = _bad(model)
        texts, closed, order = [""] * 8, [0] * 8, []
        with model.context(n_ctx=512, n_seq_max=3, kv_unified=True) as context:
            for i, piece in stream_many(context, prompts, max_tokens=12, params=params):
                assert not closed[i], "nothing comes after the closing piece"
                texts[i] += piece.text
                order.append(i)
                if piece.finish_reason is not None:
                    closed[i] += 1
                    assert (piece.result is None) == (piece.finish_reason == "error")
                    assert (piece.error is None) == (piece.finish_reason != "error")
                    assert piece.result is None or piece.result.text == texts[i]
        assert closed == [1] * 8
        assert order != sorted(order), "several at once"


def test_breaking_off(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model:
        with model.context(n_ctx=512, n_seq_max=4, kv_unified=True) as context:
            pieces = stream_many(context, ["ab", "cd", "ef"], max_tokens=50, temperature=0)
            for _ in range(9):
                next(pieces)
            before = context.decodes
            pieces.close()  # type: ignore[attr-defined]
            assert context.decodes == before and context.sequence(0).length == 0
            assert len(generate_many(context, ["ab"], max_tokens=3)) == 1
            pieces = stream_many(context, ["ab", "cd"], max_tokens=50, temperature=0)
            next(pieces)
            pyllama.generate(context, "xyz", max_tokens=2)
            with pytest.raises(ContextError, match="one context per call"):
                list(pieces)
            pieces = stream_many(context, ["ab", "cd"], max_tokens=50, temperature=0)
            next(pieces)
        with pytest.raises(ClosedError):
            list(pieces)


def test_wrong_use_is_told_at_once(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    with pyllama.Model(tiny_model("attention")) as model:
        assert generate_many(model, []) == []
        for options, words in (
            ({"max_tokens": [1, 2, 3]}, "3 values for 2 prompts"),
            ({"params": [SamplerParams()]}, "1 values for 2 prompts"),
            ({"max_tokens": -1}, "at least 0"),
            ({"max_sequences": 0}, "at least 1"),
            ({"stop": [""]}, "empty stop string"),
            ({"logprobs": -1}, "logprobs"),
            ({"temperature": -1}, "temperature"),
        ):
            with pytest.raises(UsageError, match=words):
                stream_many(model, ["a", "b"], **options)  # type: ignore[arg-type]
    with pyllama.Model(tiny_encoders.write("bert", tmp_path)) as encoder, pytest.raises(UsageError):
        generate_many(encoder, ["a"])


def test_prompts_longer_than_a_batch_leave_the_others_going(tiny_model: Callable[[str], Path]) -> None:
    """While the long prompt is read, the short one gets a token with each decode."""
    with pyllama.Model(tiny_model("attention")) as model:
        options = {"n_ctx": 2048, "n_seq_max": 2, "kv_unified": True, "n_batch": 64, "n_ubatch": 16}
        with model.context(**options) as context:
            params = SamplerParams(temperature=0, ignore_eos=True)
            between: list[int] = []
            long = [5 + i % 200 for i in range(900)]
            for i, piece in stream_many(context, ["ab", long], max_tokens=[40, 2], params=params):
                if i == 0 and piece.token is not None:
                    between.append(context.decodes)
                if i == 1:
                    break
        assert len(between) == 40
        assert all(later - sooner == 1 for sooner, later in itertools.pairwise(between))


def test_the_real_model(model: pyllama.Model) -> None:
    prompts = ["The capital of France is", "Once upon a time", "1, 2, 3,", "I think that"]
    with model.context(n_ctx=256, n_seq_max=4, kv_unified=True) as context:
        found = generate_many(context, prompts, max_tokens=12, temperature=0)
    # On AMX products of several rows round otherwise: a logit is up to 0.6 off.
    check(model, prompts, found, 12, tie=1.2)


def test_where_the_build_cannot_say_what_fits(
    child: Any, stock_build: Any, tiny_model: Callable[[str], Path]
) -> None:
    """Without kv-blocks tokens are counted; nothing is lost for lack of room."""
    code = """
params = pyllama.SamplerParams(temperature=0, ignore_eos=True)
prompts = [letter * 30 for letter in "abcdef"]
with pyllama.Model(sys.argv[1]) as model:
    alone = [pyllama.generate(model, prompt, max_tokens=60, params=params).tokens for prompt in prompts]
    with model.context(n_ctx=256, n_seq_max=6, kv_unified=True, threads=1) as context:
        assert not hasattr(context.library.raw, "llama_kv_room")
        found = pyllama.generate_many(context, prompts, max_tokens=60, params=params)
        print([one.tokens for one in found] == alone, [one.finish_reason for one in found] == ["length"] * 6)
        short = pyllama.generate_many(context, ["a" * 150, "b" * 150], max_tokens=300, params=params)
        print([one.prompt_tokens + len(one.tokens) for one in short])
"""
    said = child(code, tiny_model("hybrid"), PYLLAMA_BUILD=str(stock_build.folder)).stdout.splitlines()
    assert said == ["True True", "[257, 257]"]


def test_one_prompt_instead_of_many(tiny_model: Callable[[str], Path]) -> None:
    """A str and bytes are sequences, too: of prompts of one character, and of numbers."""
    with pyllama.Model(tiny_model("attention")) as model:
        for wrong, told in (
            ("Hello", "one text"),
            (b"Hello", "one text"),
            ([b"Hello"], "decode them"),
            (["Hello", bytearray(b"x")], "decode them"),
            ([5, 6, 7], "a list of prompts"),
        ):
            for call in (generate_many, stream_many):
                with pytest.raises(UsageError, match=told):
                    call(model, wrong)  # type: ignore[operator]

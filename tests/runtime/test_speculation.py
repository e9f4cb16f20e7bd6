"""Drafts: the tokens, log-probabilities and ends of plain decoding, whatever is drafted, on every memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from drafted import N_CTX, prompt_of, run, run_fresh, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from same_bits import NAMES, options, write_same_bits

import pyllama
from pyllama import PromptLookup, SamplerParams
from pyllama.errors import ClosedError, ContextError, UsageError

pytestmark = pytest.mark.matrix

RECURRENT = ("mamba2", "hybrid")


@dataclass
class Oracle:
    """Drafts what plain decoding gave, with some tokens wrong, or of wrong length."""

    truth: Sequence[int]
    prompt: int
    wrong: Sequence[bool] = (False,)
    most: int = 8
    cost: float = 0.0
    asked: list[int] = field(default_factory=list)
    closed: int = 0

    def start(self, context: pyllama.Context) -> Oracle:
        return self

    def propose(self, text: Sequence[int], most: int) -> list[int]:
        self.asked.append(most)
        at = len(text) - self.prompt
        known = [*self.truth[at : at + most], *[7] * most][:most]  # beyond the end it goes on with anything
        return [
            (token + 1) % 300 + 3 if self.wrong[(at + i) % len(self.wrong)] else token
            for i, token in enumerate(known)
        ]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, int], pyllama.Model]]:
    folder = tmp_path_factory.mktemp("same-bits")
    opened = {
        (name, seed): pyllama.Model(write_same_bits(name, folder, seed)) for name in NAMES for seed in (0, 1)
    }
    yield opened
    for model in opened.values():
        model.close()


@pytest.fixture
def context(
    models: dict[tuple[str, int], pyllama.Model], request: pytest.FixtureRequest
) -> Iterator[pyllama.Context]:
    with models[request.param, 0].context(**options(n_ctx=N_CTX)) as made:
        yield made


every = pytest.mark.parametrize("context", NAMES, indirect=True)


SAMPLERS = st.sampled_from(
    [
        SamplerParams(temperature=0),
        SamplerParams(temperature=0, repeat_penalty=1.3, repeat_last_n=20, frequency_penalty=0.2),
        SamplerParams(temperature=1, seed=1),
        SamplerParams(temperature=0.7, seed=2, dry_multiplier=0.8, xtc_probability=0.5, xtc_threshold=0.05),
        SamplerParams(temperature=1, seed=3, mirostat=2),
        SamplerParams(temperature=1, seed=4, grammar="root ::= ([a-z] [a-z]? [0-9])*"),
    ]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(NAMES),
    model=st.integers(0, 1),
    seed=st.integers(0, 2**32 - 2),
    length=st.integers(1, 40),
    wrong=st.lists(st.booleans(), min_size=1, max_size=7),
    most=st.integers(1, 40),
    n_batch=st.sampled_from([1, 2, 5, 32, 256]),
    params=SAMPLERS,
)
def test_the_same_as_without_drafts(
    models: dict[tuple[str, int], pyllama.Model],
    name: str,
    model: int,
    seed: int,
    length: int,
    wrong: list[bool],
    most: int,
    n_batch: int,
    params: SamplerParams,
) -> None:
    prompt = prompt_of(seed, length)
    sizes = options(n_ctx=N_CTX, n_batch=n_batch, n_ubatch=min(n_batch, 32))
    with models[name, model].context(**sizes) as context:
        more = {"params": params, "temperature": None, "max_tokens": 50, "logprobs": 1}
        plain = run(context, prompt, **more)
        oracle = Oracle(plain.tokens, length, wrong, most)
        drafted = run(context, prompt, draft=oracle, **more)
        same(drafted, plain)
        found = drafted.drafting
        assert found is not None and plain.drafting is None
        assert 0 <= found.accepted <= found.drafted and found.accepted <= len(plain.tokens)
        assert oracle.closed == 1 and all(0 < asked <= most for asked in oracle.asked)
        if context.n_batch == 1:
            assert found.rounds == 0
        whole = plain.finish_reason == "length" and len(plain.tokens) > 20
        if whole and not any(wrong) and most > 3 and n_batch >= 32:
            assert found.accepted == found.drafted > len(plain.tokens) / 2
        assert context.sequence(0).length == len(context.kept.tokens)
        text = [*prompt, *plain.tokens]
        assert context.kept.tokens == text[: len(context.kept.tokens)], "what is kept is the text"


@every
@pytest.mark.parametrize("most", [1, 3, 8])
def test_ends(context: pyllama.Context, most: int) -> None:
    """Every number of tokens, and a stop string after every token: at each border of a draft."""
    prompt = prompt_of(5)
    plain = run(context, prompt, max_tokens=24)
    vocab = context.model.vocab
    wrong = [False, False, False, True]
    for n in range(len(plain.tokens) + 1):
        drafted = run(context, prompt, max_tokens=n, draft=Oracle(plain.tokens, len(prompt), wrong, most))
        same(drafted, run(context, prompt, max_tokens=n))
        assert len(drafted.tokens) == n
    stops = [
        text
        for i in range(len(plain.tokens) - 1)
        if (
            text := (vocab.piece(plain.tokens[i]) + vocab.piece(plain.tokens[i + 1])).decode(
                "utf-8", "ignore"
            )
        )
    ]
    for stop in stops:
        drafted = run(context, prompt, stop=stop, draft=Oracle(plain.tokens, len(prompt), wrong, most))
        same(drafted, run(context, prompt, stop=stop))
    assert stops


@every
def test_the_model_ends_the_text_inside_a_draft(context: pyllama.Context) -> None:
    vocab = context.model.vocab
    end = next(token for token in range(len(vocab)) if vocab.is_eog(token))
    prompt = prompt_of(6)
    free = run(context, prompt, max_tokens=20)
    grammar = "root ::= [a-z] [a-z] [a-z] [a-z] [a-z]"
    params = SamplerParams(temperature=0, grammar=grammar)
    plain = run(context, prompt, params=params, temperature=None)
    assert plain.finish_reason == "stop" and len(plain.tokens) == 5 < len(free.tokens)
    for truth in ([*plain.tokens, end, 50, 60], [*plain.tokens, 50, 60], [*plain.tokens[:3], end, end]):
        drafted = run(
            context, prompt, params=params, temperature=None, draft=Oracle(truth, len(prompt), most=20)
        )
        same(drafted, plain)


@every
def test_a_full_context(context: pyllama.Context) -> None:
    for space in range(12):
        prompt = prompt_of(7, context.n_ctx_seq - space)
        plain = run(context, prompt)
        drafted = run(context, prompt, draft=Oracle(plain.tokens, len(prompt)))
        same(drafted, plain)
        assert drafted.finish_reason == "stop" or len(drafted.tokens) == space + 1


@every
def test_the_next_prompt_goes_on_from_there(context: pyllama.Context) -> None:
    prompt = prompt_of(8)
    plain = run(context, prompt)
    for taken in (len(plain.tokens), 17, 4):
        oracle = Oracle(plain.tokens, len(prompt), [False] * 6 + [True])
        first = run(context, prompt, max_tokens=taken, draft=oracle, reuse=True)
        assert first.tokens == plain.tokens[:taken]
        longer = [*prompt, *first.tokens, 40, 41]
        expected = run_fresh(context, longer)
        more = run(context, longer, reuse=True, draft=Oracle(expected.tokens, len(longer), [False, True]))
        same(more, expected)
        # A recurrent state goes back to before the last draft.
        back = 16 if context.recurrent else 1
        assert more.cached_tokens >= len(prompt) + taken - back
        again = run(context, longer, reuse=True, draft=Oracle(expected.tokens, len(longer)))
        same(again, expected)
        # Nothing is saved before the last token: it is near where the prompt left the text before.
        departs = len(prompt) + taken - 1
        assert again.cached_tokens == (len(longer) - 1 if context.rewinds else departs)


@every
def test_an_abandoned_stream(context: pyllama.Context) -> None:
    prompt = prompt_of(9)
    plain = run(context, prompt)
    for taken in range(1, 12):
        oracle = Oracle(plain.tokens, len(prompt))
        pieces = pyllama.stream(context, prompt, max_tokens=60, temperature=0, draft=oracle)
        made = [next(pieces).token for _ in range(taken)]
        pieces.close()  # type: ignore[attr-defined]
        assert made == list(plain.tokens[:taken]) and oracle.closed == 1
        longer = [*prompt, *plain.tokens]
        same(run(context, longer, max_tokens=4, reuse=True), run_fresh(context, longer, max_tokens=4))


@pytest.mark.parametrize("name", ["attention", "hybrid"])
def test_another_sequence_is_used_meanwhile(models: Any, name: str) -> None:
    """Its decode overwrites the outputs that the draft is checked by."""
    sizes = options(n_ctx=2 * N_CTX, n_seq_max=2)
    with models[name, 0].context(**sizes) as context:
        prompt = prompt_of(10)
        plain = run(context, prompt, max_tokens=30)
        pieces = pyllama.stream(
            context, prompt, max_tokens=30, temperature=0, draft=Oracle(plain.tokens, len(prompt))
        )
        made = []
        for i, piece in enumerate(pieces):
            if piece.token is not None:
                made.append(piece.token)
            if i % 5 == 3:
                context.sequence(1).feed([50 + i])
        assert made == list(plain.tokens)


@every
def test_a_context_that_is_cleared_or_closed(context: pyllama.Context) -> None:
    prompt = prompt_of(11)
    plain = run(context, prompt)
    oracle = Oracle(plain.tokens, len(prompt))
    pieces = pyllama.stream(context, prompt, max_tokens=60, temperature=0, draft=oracle)
    for _ in range(4):
        next(pieces)
    context.clear()
    with pytest.raises(ContextError, match="cleared"):
        next(pieces)
    same(run(context, prompt, reuse=True), plain)
    pieces = pyllama.stream(context, prompt, max_tokens=60, temperature=0, draft=oracle)
    for _ in range(4):
        next(pieces)
    context.close()
    with pytest.raises(ClosedError):
        for _ in range(20):
            next(pieces)
    assert oracle.closed == 2


@every
def test_a_draft_that_fails(context: pyllama.Context) -> None:
    class Failing(Oracle):
        def propose(self, text: Sequence[int], most: int) -> list[int]:
            if len(text) > len(prompt) + 1:
                raise RuntimeError("no idea")
            return super().propose(text, most)

    prompt = prompt_of(12)
    plain = run(context, prompt, params=SamplerParams(temperature=0, ignore_eos=True))
    oracle = Failing(plain.tokens, len(prompt))
    with pytest.raises(RuntimeError, match="no idea"):
        run(context, prompt, draft=oracle, reuse=True, params=SamplerParams(ignore_eos=True))
    assert oracle.closed == 1
    longer = [*prompt, *plain.tokens[:5]]
    same(run(context, longer, reuse=True), run_fresh(context, longer))

    class Foreign(Oracle):
        def propose(self, text: Sequence[int], most: int) -> list[int]:
            return [10**6]

    with pytest.raises(ContextError, match="token 1000000 is not in a vocabulary"):
        run(context, prompt, draft=Foreign(plain.tokens, len(prompt)), reuse=True)
    same(run(context, longer, reuse=True), run_fresh(context, longer))


def test_wrong_values(models: Any) -> None:
    model = models["attention", 0]
    for bad in ({"most": 0}, {"most": 513}, {"shortest": 0}, {"shortest": 5}, {"longest": 65}):
        with pytest.raises(UsageError):
            PromptLookup(**bad)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="most=0"):
        pyllama.stream(model, [5], draft=Oracle([], 1, most=0))


@every
def test_text_that_repeats(context: pyllama.Context) -> None:
    """What prompt lookup is for: a grammar sees to it that the text does."""
    one_way = dict.fromkeys(range(3, 259), -math.inf)  # letters only, no bytes
    grammar = 'root ::= ("abcdefghij")*'
    params = SamplerParams(temperature=0, grammar=grammar, ignore_eos=True, logit_bias=one_way)
    prompt = prompt_of(13)
    plain = run(context, prompt, params=params, temperature=None, max_tokens=150)
    before = context.decodes
    drafted = run(context, prompt, params=params, temperature=None, max_tokens=150, draft=PromptLookup())
    same(drafted, plain)
    found = drafted.drafting
    assert found is not None and len(plain.tokens) == 150
    assert found.acceptance == 1 and found.accepted > 100
    assert context.decodes - before <= 1 + 150 - found.accepted
    assert (found.checkpoint_bytes > 0) == context.recurrent


def test_a_text_that_cannot_be_guessed_costs_little(models: Any) -> None:
    for name in NAMES:
        with models[name, 0].context(**options(n_ctx=1024)) as context:
            prompt = prompt_of(14)
            plain = run(context, prompt, max_tokens=600)
            oracle = Oracle(plain.tokens, len(prompt), [True])
            drafted = run(context, prompt, max_tokens=600, draft=oracle)
            same(drafted, plain)
            assert drafted.drafting is not None and drafted.drafting.accepted == 0
            assert 0 < drafted.drafting.drafted < 20 + len(plain.tokens) * 0.1


def test_html(models: Any) -> None:
    with models["attention", 0].context(**options(n_ctx=N_CTX)) as context:
        plain = run(context, prompt_of(15))
        drafted = run(context, prompt_of(15), draft=Oracle(plain.tokens, 12))
    assert drafted.drafting is not None
    right = drafted.drafting.accepted
    assert f"{drafted.drafting.drafted} tokens, {right} of them right" in drafted._repr_html_()
    assert "of them right" not in plain._repr_html_()
    assert not math.isnan(drafted.drafting.acceptance)


@pytest.mark.parametrize(
    "kind", ["attention", "swa", "mamba2", "rwkv7", "hybrid", "moe", "hybrid-swa", "delta"]
)
def test_where_rounding_differs(tiny_model: Any, kind: str) -> None:
    """Tokens are the same up to a place where the model was undecided within rounding."""
    with pyllama.Model(tiny_model(kind)) as model, model.context(n_ctx=512, threads=1) as context:
        for seed in range(3):
            prompt = prompt_of(seed, 30)
            plain = run(context, prompt, max_tokens=120, logprobs=2)
            oracle = Oracle(plain.tokens, len(prompt), [False, False, True, False])
            drafted = run(context, prompt, max_tokens=120, logprobs=2, draft=oracle)
            assert plain.logprobs is not None and drafted.logprobs is not None
            pairs = zip(plain.logprobs, drafted.logprobs, strict=False)
            parts = next(((a, b) for a, b in pairs if a.token != b.token), None)
            if parts is not None:
                for entry in parts:
                    best, second = entry.top
                    assert best.logprob is not None and second.logprob is not None
                    assert best.logprob - second.logprob < 0.05
            assert drafted.drafting is not None and drafted.drafting.accepted > 0

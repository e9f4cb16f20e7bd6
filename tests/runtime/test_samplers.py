"""Samplers against the formulas that define them, on logits that the tests choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy
import pytest
from numpy.typing import NDArray

import pyllama
from pyllama import Sampler, SamplerParams
from pyllama.errors import ClosedError, ContextError, UsageError

pytestmark = pytest.mark.matrix

Logits = NDArray[numpy.float32]
OFF = SamplerParams(temperature=1, top_k=0, top_p=1, min_p=0, seed=1)
DRAWS = 400


@pytest.fixture(scope="module")
def context(tiny_model: Callable[[str], Path]) -> Iterator[pyllama.Context]:
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=256, threads=1) as made:
        made.decode([40, 41, 42])
        yield made


def _put(context: pyllama.Context, logits: Logits) -> None:
    context.logits().numpy()[:] = logits


def _some(n: int, seed: int = 0) -> Logits:
    return numpy.random.default_rng(seed).normal(0, 2, n).astype(numpy.float32)


def _with(**changes: Any) -> SamplerParams:
    return SamplerParams(**{**{f.name: getattr(OFF, f.name) for f in fields(SamplerParams)}, **changes})


def _seen(context: pyllama.Context, params: SamplerParams, draws: int = DRAWS) -> set[int]:
    """Return which tokens come out of so many draws, each from the same logits."""
    seen = set()
    with Sampler(params, context.model) as sampler:
        for _ in range(draws):
            seen.add(sampler.sample(context))
    return seen


def _probabilities(logits: Logits) -> NDArray[numpy.float64]:
    p = numpy.exp(logits.astype(numpy.float64) - logits.max())
    return p / p.sum()


def test_the_draws_follow_the_probabilities(context: pyllama.Context) -> None:
    logits = numpy.full(len(context.model.vocab), -30, numpy.float32)
    logits[[7, 9, 200]] = numpy.log(numpy.array([0.6, 0.3, 0.1]))
    _put(context, logits)
    with Sampler(OFF) as sampler:
        drawn = [sampler.sample(context) for _ in range(4000)]
    for token, p in ((7, 0.6), (9, 0.3), (200, 0.1)):
        assert abs(drawn.count(token) / 4000 - p) < 6 * math.sqrt(p * (1 - p) / 4000)
    with Sampler(OFF) as again:
        assert [again.sample(context) for _ in range(50)] == drawn[:50], "the seed decides"
        again.reset()
        assert [again.sample(context) for _ in range(50)] == drawn[:50]
    with Sampler(_with(temperature=0.25)) as cold:
        share = [cold.sample(context) for _ in range(1000)].count(7) / 1000
    assert abs(share - 0.6**4 / (0.6**4 + 0.3**4 + 0.1**4)) < 0.05


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "typical_p", "top_n_sigma"])
def test_what_is_kept(context: pyllama.Context, name: str) -> None:
    """The tokens that come out are those that the formula keeps, and every likely one of them does."""
    logits = _some(len(context.model.vocab)) * 1.5
    _put(context, logits)
    p = _probabilities(logits)
    order = numpy.argsort(-p)
    if name == "top_k":
        params, kept = _with(top_k=5), order[:5]
    elif name == "top_p":
        params, kept = _with(top_p=0.5), order[: int(numpy.searchsorted(numpy.cumsum(p[order]), 0.5)) + 1]
    elif name == "min_p":
        params, kept = _with(min_p=0.2), numpy.flatnonzero(p >= 0.2 * p.max())
    elif name == "typical_p":
        entropy = -(p * numpy.log(p)).sum()
        typical = numpy.argsort(numpy.abs(-numpy.log(p) - entropy))
        params = _with(typical_p=0.5)
        kept = typical[: int(numpy.searchsorted(numpy.cumsum(p[typical]), 0.5)) + 1]
    else:
        params = _with(top_n_sigma=1.0)
        kept = numpy.flatnonzero(logits >= logits.max() - logits.std())
    allowed = {int(token) for token in kept}
    assert 1 < len(allowed) < 40
    seen = _seen(context, params, 2000)
    assert seen <= allowed
    likely = {t for t in allowed if p[t] / p[list(allowed)].sum() > 0.02}
    assert likely <= seen
    assert not _seen(context, OFF, 2000) <= allowed, "without it others come too"


def test_min_keep(context: pyllama.Context) -> None:
    logits = _some(len(context.model.vocab))
    _put(context, logits)
    best = set(map(int, numpy.argsort(-logits)[:3]))
    assert len(_seen(context, _with(min_p=1.0))) == 1
    assert _seen(context, _with(min_p=1.0, min_keep=3)) == best
    assert _seen(context, _with(top_k=1, min_keep=3)) == best


def test_xtc_takes_the_best_out(context: pyllama.Context) -> None:
    logits = numpy.full(len(context.model.vocab), -30, numpy.float32)
    logits[[7, 9, 200, 11]] = numpy.log(numpy.array([0.5, 0.25, 0.2, 0.05]))
    _put(context, logits)
    # Of three good ones only the least likely is left, and what was never good.
    assert _seen(context, _with(xtc_probability=1, xtc_threshold=0.1)) == {200, 11}
    assert _seen(context, _with(xtc_probability=1, xtc_threshold=0.4)) == {7, 9, 200, 11}
    assert 7 in _seen(context, _with(xtc_probability=0.5, xtc_threshold=0.1))
    assert "xtc" not in _with(xtc_probability=0.5, xtc_threshold=0.6).active()


def test_dynamic_temperature(context: pyllama.Context) -> None:
    """A sure distribution gets the lowest temperature: only its best token is left."""
    logits = numpy.full(len(context.model.vocab), -30, numpy.float32)
    logits[[7, 9]] = [0, -1.5]
    _put(context, logits)
    assert _seen(context, OFF) == {7, 9}
    assert _seen(context, _with(dynatemp_range=1.0)) == {7}


@pytest.mark.parametrize(
    ("changes", "effect"),
    [
        ({"repeat_penalty": 2.0}, lambda x, n: x / 2 if x > 0 else x * 2),
        ({"frequency_penalty": 0.75}, lambda x, n: x - 0.75 * n),
        ({"presence_penalty": 1.25}, lambda x, n: x - 1.25),
    ],
)
def test_penalties(
    context: pyllama.Context, changes: dict[str, float], effect: Callable[[float, int], float]
) -> None:
    """Greedy choice between a token that came before and others whose logits lie around the penalised one."""
    base = numpy.full(len(context.model.vocab), -50, numpy.float32)
    for logit in (4.0, -3.0):
        for count in (1, 3):
            lowered = effect(logit, count)
            for other, winner in ((lowered - 0.01, 7), (lowered + 0.01, 9)):
                logits = base.copy()
                logits[7], logits[9] = logit, other
                _put(context, logits)
                with Sampler(_with(temperature=0, **changes), context.model) as sampler:
                    assert sampler.sample(context) == (7 if logit > other else 9)
                    sampler.reset()
                    sampler.accept_prompt([7] * count)
                    assert sampler.sample(context) == winner
                with Sampler(_with(temperature=0, repeat_last_n=2, **changes), context.model) as sampler:
                    sampler.accept_prompt([*[7] * count, 5, 6])  # too long ago
                    assert sampler.sample(context) == (7 if logit > other else 9)


def test_dry(context: pyllama.Context) -> None:
    """Going on with a repetition of n tokens costs multiplier × base^(n - allowed)."""
    history = [50, 51, 52, 53, 60, 50, 51, 52]
    cost = 0.5 * 1.75 ** (3 - 2)
    for other, winner in ((-cost - 0.01, 53), (-cost + 0.01, 9)):
        logits = numpy.full(len(context.model.vocab), -50, numpy.float32)
        logits[53], logits[9] = 0, other
        _put(context, logits)
        with Sampler(_with(temperature=0, dry_multiplier=0.5), context.model) as sampler:
            sampler.accept_prompt(history)
            assert sampler.sample(context) == winner
        (letter,) = context.model.tokenize("q", add_special=False)
        with Sampler(_with(temperature=0, dry_multiplier=0.5, dry_breakers=("q",)), context.model) as sampler:
            sampler.accept_prompt([50, 51, letter, 53, 60, 50, 51, letter])
            assert sampler.sample(context) == 53, "no repetition reaches across a breaker"


def test_logit_bias_and_ignore_eos(context: pyllama.Context) -> None:
    logits = numpy.full(len(context.model.vocab), 0, numpy.float32)
    logits[7], logits[9], logits[2] = 5, 4.9, 9
    _put(context, logits)
    model = context.model
    assert model.vocab.is_eog(2)
    assert _seen(context, _with(temperature=0), 1) == {2}
    assert _seen(context, _with(temperature=0, ignore_eos=True), 1) == {7}
    assert _seen(context, _with(temperature=0, ignore_eos=True, logit_bias={9: 0.2}), 1) == {9}
    only = {token: -math.inf for token in range(len(model.vocab)) if token != 33}
    assert _seen(context, _with(logit_bias=only)) == {33}
    with pytest.raises(UsageError, match="forbid every token"):
        Sampler(_with(logit_bias={**only, 33: -math.inf}), model)
    with pytest.raises(UsageError, match=r"token 320 is not in a vocabulary of 320"):
        Sampler(_with(logit_bias={320: 1.0}), model)


def test_mirostat_and_adaptive_p(context: pyllama.Context) -> None:
    """Both steer: Mirostat to the surprise asked for, adaptive-p to a probability."""
    logits = _some(len(context.model.vocab)) * 1.5
    _put(context, logits)
    surprise = -numpy.log2(_probabilities(logits))
    for version in (1, 2):
        means = []
        for tau in (1.5, 4.0):
            with Sampler(_with(mirostat=version, mirostat_tau=tau), context.model) as sampler:
                assert sampler.names[-1].startswith("mirostat") and len(sampler.names) == 2
                means.append(numpy.mean([surprise[sampler.sample(context)] for _ in range(600)][100:]))
        assert means[0] < means[1]
        assert abs(means[0] - 1.5) < 1.0
    if pyllama.build_info().pin == "2025-08":
        with pytest.raises(UsageError, match="2026-05 or later"):
            Sampler(_with(adaptive_target=0.1))
        return
    p = _probabilities(logits)
    chosen = []
    for target in (0.02, 0.9):
        with Sampler(_with(adaptive_target=target)) as sampler:
            assert sampler.names[-1] == "adaptive-p"
            chosen.append(numpy.mean([p[sampler.sample(context)] for _ in range(400)]))
    assert chosen[0] < chosen[1]


def test_the_order_of_the_chain(context: pyllama.Context) -> None:
    every = SamplerParams(
        repeat_penalty=1.1,
        dry_multiplier=0.5,
        top_n_sigma=2,
        typical_p=0.9,
        xtc_probability=0.1,
        logit_bias={5: 1.0},
        grammar="root ::= [a-z]+",
    )
    with Sampler(every, context.model) as sampler:
        names = ["grammar", "logit-bias", "penalties", "dry", "top-n-sigma", "top-k"]
        assert list(sampler.names) == [*names, "typical", "top-p", "min-p", "xtc", "temp-ext", "dist"]
    with Sampler(SamplerParams(order=("temperature", "min_p"))) as sampler:
        assert sampler.names == ("temp-ext", "min-p", "dist")
    with Sampler(SamplerParams(temperature=0)) as sampler:
        assert sampler.names == ("greedy",), "what cannot change the outcome is not computed"
    # A temperature after the cut cannot change what was cut, one before it can.
    logits = numpy.full(len(context.model.vocab), -50, numpy.float32)
    logits[[7, 9]] = [2, 0]
    _put(context, logits)
    late = _with(temperature=5, min_p=0.3)
    assert _seen(context, late) == {7}
    assert _seen(context, _with(temperature=5, min_p=0.3, order=("temperature", "min_p"))) == {7, 9}


def _each(names: tuple[str, ...], *values: float) -> list[dict[str, float]]:
    return [{name: value} for name in names for value in values]


@pytest.mark.parametrize(
    "wrong",
    [
        *_each(("temperature", "top_n_sigma", "mirostat_tau"), -1, math.nan),
        *_each(("top_p", "typical_p", "xtc_threshold"), -0.1, 1.1, math.nan),
        *_each(("top_k", "min_keep", "repeat_last_n", "dry_last_n"), -1, 2**31),
        *_each(("frequency_penalty", "dry_multiplier"), math.inf, math.nan),
        *_each(("repeat_penalty",), 0, -1, math.inf, math.nan),
        {"dry_base": 0.5},
        {"mirostat": 3},
        {"adaptive_target": 1.5},
        {"adaptive_decay": 1},
        {"logit_bias": {5: math.nan}},
        {"logit_bias": {5: math.inf}},
        {"dry_breakers": ("",)},
        {"dry_breakers": ("x" * 41,)},
        {"dry_breakers": ("a\0b",)},
        {"grammar": 'root ::= "a\0b"'},
        {"order": ("top_k", "top_k")},
        {"order": ("nothing",)},
        {"seed": -1},
    ],
    ids=repr,
)
def test_values_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SamplerParams(**wrong)


def test_what_needs_the_model(context: pyllama.Context, tiny_model: Callable[[str], Path]) -> None:
    for changes in (
        {"repeat_penalty": 1.1},
        {"dry_multiplier": 0.5},
        {"logit_bias": {5: 1.0}},
        {"ignore_eos": True},
        {"mirostat": 1},
        {"grammar": 'root ::= "a"'},
    ):
        with pytest.raises(UsageError, match=r"Sampler\(params, model\)"):
            Sampler(_with(**changes))
    with pyllama.Model(tiny_model("moe")) as other, Sampler(OFF, other) as sampler:
        with pytest.raises(ContextError, match="another model"):
            sampler.sample(context)
        for token in (-1, 320, 2**40):
            with pytest.raises(ContextError, match="not in a vocabulary"):
                sampler.accept(token)


def test_a_sampler_that_reads_the_vocabulary_goes_with_the_model(tiny_model: Callable[[str], Path]) -> None:
    model = pyllama.Model(tiny_model("attention"))
    free = Sampler(OFF, model)
    bound = [
        Sampler(_with(grammar='root ::= "a"'), model),
        Sampler(_with(dry_multiplier=0.5), model),
    ]
    model.close()
    assert all(sampler.closed for sampler in bound) and not free.closed
    for sampler in bound:
        for call in (sampler.reset, lambda s=sampler: s.accept(5), lambda s=sampler: s.names):
            with pytest.raises(ClosedError):
                call()
    free.close()


def test_greedy_alone_is_what_llama_cpps_greedy_sampler_takes(context: pyllama.Context) -> None:
    """Ours looks for the largest logit by itself; ties, infinities and every place of it are the same."""
    lib, n = pyllama.lib, len(context.model.vocab)
    with Sampler(SamplerParams(temperature=0), context.model) as sampler:
        assert sampler.names == ("greedy",)

        def both() -> tuple[int, int]:
            return sampler.sample(context), lib.llama_sampler_sample(sampler.ptr, context.ptr, -1)

        for i in range(n):
            logits = _some(n, i)
            logits[i] = 99
            _put(context, logits)
            assert both() == (i, i)
        for i in range(50):
            logits = numpy.round(_some(n, i))  # many are the same
            logits[i % n] = -numpy.inf
            _put(context, logits)
            ours, theirs = both()
            assert ours == theirs == int(numpy.argmax(logits))
        for value in (0.0, -numpy.inf):
            _put(context, numpy.full(n, value, numpy.float32))
            assert both() == (0, 0)

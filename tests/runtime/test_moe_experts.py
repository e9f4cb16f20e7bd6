"""Fewer experts than the model takes: each token gives what the routing says, in each context on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from arch_models import EXPERTS, USED, ArchModel, Value, learn
from moe_reference import Reference, Routing
from sequences import Logits, Sequences

import pyllama
from pyllama import lib
from pyllama.errors import ContextError, UsageError

pytestmark = pytest.mark.matrix

TinyModel = Callable[[str], Path]
TOKENS = [20, 77, 150, 201]
EXACT = {"type_k": 0, "type_v": 0}  # 32-bit floats: nothing is rounded in the cache


def _load(path: Path) -> str:
    try:
        pyllama.Model(path).close()
    except pyllama.Error as error:
        return str(error)
    return ""


KINDS: Mapping[str, tuple[Routing, Mapping[str, Value]]] = {
    "qwen3moe": (Routing(), {"expert_weights_scale": 1.0}),
    # an expert that all tokens go to, behind a gate of its own
    "qwen2moe": (Routing(normed=False), {"expert_weights_scale": 1.0}),
    # groups of experts, a bias for the choice alone, a scale, a shared expert, and a layer without experts
    "bailingmoe2": (
        Routing(sigmoid=True, scale=1.5, groups=4, groups_used=2),
        {"expert_group_count": 4, "expert_group_used_count": 2, "expert_gating_func": 2},
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def mixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ArchModel:
    """A model with experts, and how it weighs them."""
    if request.param == "bailingmoe2" and pyllama.build_info().pin == "2025-08":
        pytest.skip("2025-08 has no groups of experts")
    _, more = KINDS[request.param]
    model = learn(request.param, tmp_path_factory.mktemp("learn"), _load, more)
    if request.param == "bailingmoe2":
        layers = range(1, model.layers)
        biases = {f"blk.{i}.exp_probs_b.bias": (EXPERTS,) for i in layers}
        model = replace(model, tensors={**model.tensors, **biases})
    return model


def alone(sequences: Sequences, token: int) -> Logits:
    """What follows a token that stands alone."""
    sequences.clear()
    return sequences.decode([token])[0]


def test_what_the_routing_says(mixture: ArchModel, tmp_path: Path) -> None:
    routing, _ = KINDS[mixture.architecture]
    reference = Reference(mixture, routing)
    with Sequences(mixture.write(tmp_path / "m.gguf"), n_ctx=64, **EXACT) as s:
        given = {0: [alone(s, token) for token in TOKENS]}
        assert s.context.n_experts == USED
        # Batches of the same shape one after the other: a graph that is kept must not be used again.
        for i, token in enumerate(TOKENS):
            for n in (USED, 1, 3, 2, USED):
                s.context.set_experts(n)
                assert s.context.n_experts == n
                got, expected = alone(s, token), reference.logits(token, n)
                assert expected.std() > 0.3
                numpy.testing.assert_allclose(got, expected, atol=0.01 * expected.std())
                if n == USED:
                    assert numpy.array_equal(got, given[0][i])
                else:
                    assert numpy.abs(got - given[0][i]).max() > 0.05 * expected.std()


def test_each_context_has_its_own(tiny_model: TinyModel) -> None:
    tokens = numpy.random.default_rng(5).integers(3, 320, 24).tolist()
    with Sequences(tiny_model("moe"), n_ctx=64) as a, Sequences(tiny_model("moe"), n_ctx=64) as b:
        whole = a.decode(tokens)
        with a.model.context(n_ctx=64, threads=1, n_experts=2) as other:
            assert (a.context.n_experts, other.n_experts) == (4, 2)
        b.context.set_experts(2)
        fewer = b.decode(tokens)
        a.clear()
        assert numpy.array_equal(a.decode(tokens), whole)
        assert not numpy.allclose(fewer, whole, atol=0.1)
    with Sequences(tiny_model("moe"), n_ctx=64, n_experts=2) as c:  # from the start
        assert numpy.array_equal(c.decode(tokens), fewer)
        c.context.set_experts(0)
        assert c.context.n_experts == 4
        c.clear()
        assert numpy.array_equal(c.decode(tokens), whole)


def test_it_may_change_within_a_sequence(tiny_model: TinyModel) -> None:
    """What was read with so many experts stays; what comes is read with as many as there are then."""
    tokens = numpy.random.default_rng(6).integers(3, 320, 20).tolist()
    with Sequences(tiny_model("moe"), n_ctx=64) as s:

        def read(plan: list[int]) -> Logits:
            s.clear()
            rows = []
            for token, n in zip(tokens, plan, strict=True):
                s.context.set_experts(n)
                rows.append(s.decode([token]))
            return numpy.concatenate(rows)

        mixed, all_of_them = read([4, 2] * 10), read([4] * 20)
        assert numpy.array_equal(read([4, 2] * 10), mixed)
        assert numpy.array_equal(mixed[0], all_of_them[0])
        assert not numpy.allclose(mixed[1], all_of_them[1], atol=0.05)
        assert not numpy.allclose(mixed[2], all_of_them[2], atol=1e-4)  # what it attends to is another


@pytest.mark.parametrize("n", [-1, 5, 8, 9, 2**31 - 1, -(2**31), 2**40])
def test_out_of_range(tiny_model: TinyModel, n: int) -> None:
    with Sequences(tiny_model("moe"), n_ctx=64) as s:
        before = s.decode([20, 30])
        s.context.set_experts(3)
        with pytest.raises(UsageError, match="experts cannot be taken"):
            s.context.set_experts(n)
        assert s.context.n_experts == 3
        if abs(n) < 2**31:
            assert not lib.llama_set_n_expert_used(s.context.ptr, n)
            with pytest.raises(ContextError, match="1 to 4"):
                s.model.context(n_ctx=64, n_experts=n)
        s.context.set_experts(0)
        s.clear()
        assert numpy.array_equal(s.decode([20, 30]), before)


def test_a_model_without_experts(tiny_model: TinyModel) -> None:
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=64) as context:
        assert context.n_experts == 0
        context.set_experts(0)
        with pytest.raises(UsageError, match="no experts"):
            context.set_experts(1)
        with pytest.raises(ContextError, match="no experts"):
            model.context(n_ctx=64, n_experts=1)
        context.decode([20])


def test_a_graph_is_kept_until_the_number_changes(tiny_model: TinyModel) -> None:
    with Sequences(tiny_model("moe"), n_ctx=64, no_perf=False) as s:
        kept = []
        for n in (4, 4, 4, 2, 2, 4, 0):
            before = lib.llama_perf_context(s.context.ptr).n_reused
            s.context.set_experts(n)
            alone(s, 20)
            kept.append(lib.llama_perf_context(s.context.ptr).n_reused - before)
        assert kept == [0, 1, 1, 0, 1, 0, 0]

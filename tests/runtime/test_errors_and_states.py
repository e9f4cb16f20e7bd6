"""More of what users of other bindings suffer from: errors that say nothing, states that fill the memory."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from exact_states import flash

import pyllama
from pyllama import Context, Model, Sampler, SamplerParams, errors

pytestmark = pytest.mark.matrix

Wrong = Callable[[Model, Context], object]
# What to do, in words: each message has one of them beside what is wrong.
ADVICE = re.compile(
    r"\b(use|give|make|ask|load|leave|decode|clear|feed|add|check|convert|choose|write"
    r"|has to be|it has|there are|is not in|is not one of|is no)\b"
)

WRONG: dict[str, tuple[type[Exception], Wrong]] = {
    "no file": (errors.ModelError, lambda m, c: Model(m.path.with_name("nothing.gguf"))),
    "no model": (errors.ModelError, lambda m, c: Model(__file__)),
    "no device": (errors.UsageError, lambda m, c: Model(m.path, devices=["CUDA7"])),
    "no split": (errors.UsageError, lambda m, c: Model(m.path, split_mode="diagonal")),
    "no field": (TypeError, lambda m, c: m.context(n_ctz=5)),
    "negative size": (errors.ContextError, lambda m, c: m.context(n_ctx=-1)),
    "no sequence": (errors.UsageError, lambda m, c: c.sequence(7)),
    "empty prompt": (errors.ContextError, lambda m, c: pyllama.generate(c, [])),
    "long prompt": (errors.ContextError, lambda m, c: pyllama.generate(c, [5] * 1000)),
    "bytes": (errors.UsageError, lambda m, c: pyllama.generate(c, b"abc")),
    "no token": (errors.ContextError, lambda m, c: c.decode([10**6])),
    "nothing to decode": (errors.ContextError, lambda m, c: c.decode([])),
    "full": (errors.DecodeError, lambda m, c: [c.decode([5] * 100) for _ in range(9)]),
    "no logits": (errors.ContextError, lambda m, c: c.logits(3)),
    "nothing to sample from": (errors.ContextError, lambda m, c: (c.clear(), Sampler().sample(c, 5))),
    "temperature": (errors.UsageError, lambda m, c: SamplerParams(temperature=-1)),
    "grammar": (errors.UsageError, lambda m, c: Sampler(SamplerParams(grammar="root = 1"), m)),
    "needs the model": (errors.UsageError, lambda m, c: Sampler(SamplerParams(repeat_penalty=2))),
    "no place": (errors.UsageError, lambda m, c: c.sequence().checkpoint("moon")),
    "of another context": (
        errors.ContextError,
        lambda m, c: c.sequence().copy_to(m.context(n_ctx=64).sequence()),
    ),
    "text of no tokens": (errors.ContextError, lambda m, c: pyllama.Embedder(m).embed([[]])),
    "no reranker": (errors.ModelError, lambda m, c: pyllama.Reranker(m)),
    "closed": (errors.ClosedError, lambda m, c: (c.close(), c.n_ctx)),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_error_is_one_sentence_that_says_what_to_do(
    tiny_model: Callable[[str], Path], name: str
) -> None:
    """Opaque errors, or none and the process ends (#2145, #69)."""
    kind, wrong = WRONG[name]
    with Model(tiny_model("attention")) as model, model.context(n_ctx=256) as context:
        with pytest.raises(kind) as caught:
            wrong(model, context)
        words = str(caught.value)
        assert isinstance(caught.value, (errors.Error, TypeError))
        assert 20 < len(words) < 600 and "\n" not in words and ADVICE.search(words), words
        if not context.closed:  # and nothing is broken
            assert len(pyllama.generate(context, "abc", max_tokens=2).tokens) <= 2


@pytest.mark.parametrize("kind", ["attention", "mamba2"])
def test_a_saved_state_is_as_large_as_what_it_holds(tiny_model: Callable[[str], Path], kind: str) -> None:
    """States fill the memory (#1732): there each one holds n_ctx × vocabulary floats, 67 MB here."""
    with Model(tiny_model(kind)) as model, model.context(n_ctx=65536, n_batch=512) as context:
        everything = context.n_ctx * len(model.vocab) * 4
        sequence = context.sequence()
        sizes = []
        for _ in range(2):
            sequence.feed([5] * 100)
            with sequence.checkpoint() as saved:
                sizes.append(saved.nbytes)
        assert 0 < sizes[0] < everything / 100
        if kind == "attention":
            assert sizes[1] == 2 * sizes[0], "200 tokens, and 100"
        else:
            assert sizes[1] == sizes[0], "a recurrent state does not grow"


@pytest.mark.parametrize("kind", ["attention", "hybrid", "mamba2", "swa"])
def test_a_long_list_that_fails_half_way(tiny_model: Callable[[str], Path], kind: str) -> None:
    """Nothing of it stays where tokens can be taken back; elsewhere the error says how much is there."""
    with (
        Model(tiny_model(kind)) as model,
        model.context(n_ctx=512, n_batch=64, n_ubatch=32, threads=1, swa_full=False) as context,
    ):
        sequence = context.sequence(0)
        sequence.feed([5] * 10)
        for n in (40, 200):
            for bad, told in (([6] * n + [10**6], errors.ContextError), ([6] * n + [2.5], TypeError)):
                with pytest.raises(told):
                    sequence.feed(bad)  # type: ignore[arg-type]
                assert sequence.length == 10, "they are looked at before the first one is computed"
        if kind == "mamba2":
            return  # it is never full
        with pytest.raises(errors.DecodeError, match=r"600 tokens could not be decoded \(code 1\)") as raised:
            sequence.feed([6] * 600)
        inside = 0 if context.rewinds else sequence.length - 10
        assert sequence.length == 10 + inside
        assert (f"the first {inside} are in sequence 0 now: clear it" in str(raised.value)) == (inside > 0)
        assert (inside == 0) == context.rewinds


def test_errors_go_to_other_processes(tiny_model: Callable[[str], Path]) -> None:
    """By pickling, as a pool of processes does."""
    with Model(tiny_model("attention")) as model, model.context(n_ctx=512, threads=1) as context:
        with pytest.raises(errors.DecodeError) as full:
            context.decode([5] * 513)
        with pytest.raises(errors.GenerationErrors) as some:
            pyllama.generate_many(context, ["abc", [5] * 600], max_tokens=2)
        with pyllama.Cancel() as cancel, pytest.raises(errors.Cancelled) as stopped:
            cancel.set()
            context.decode([5])
    stopped.value.cleared = (3,)
    for error in (full.value, some.value, stopped.value):
        for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(copied) is type(error) and str(copied) == str(error)
            assert copied.__dict__.keys() == error.__dict__.keys()
    assert pickle.loads(pickle.dumps(full.value)).code == 1
    again = pickle.loads(pickle.dumps(stopped.value))
    assert (again.code, again.cleared) == (2, (3,))
    many = pickle.loads(pickle.dumps(some.value))
    assert many.results == some.value.results and str(many.errors[1]) == str(some.value.errors[1])


def test_zeroing_heals_a_cache_with_nan(tiny_model: Callable[[str], Path]) -> None:
    """Without flash attention masked values are multiplied by 0, which NaN survives."""
    words = list(range(5, 45))
    with pyllama.Model(tiny_model("attention")) as model:
        with model.context(n_ctx=256, threads=1, **flash(False)) as context:
            context.decode(words[:3])
            expected = context.logits().copy()
        with model.context(n_ctx=256, threads=1, **flash(False)) as context:
            context.decode(words)
            size = pyllama.lib.llama_state_seq_get_size(context.ptr, 0)
            blob = pyllama.ffi.new("uint8_t[]", size)
            assert pyllama.lib.llama_state_seq_get_data(context.ptr, blob, size, 0) == size
            pyllama.ffi.buffer(blob)[size - 2000 :] = b"\xff" * 2000  # of the last layer's V
            assert pyllama.lib.llama_state_seq_set_data(context.ptr, blob, size, 0) == size
            context.clear()
            context.decode(words[:3])
            assert math.isnan(context.logits()[0]), "the test's own poison"
            context.clear(zero=True)
            context.decode(words[:3])
            assert context.logits().copy() == expected

"""Logits and embeddings without a copy: right while they are there, then an error, never stale memory."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest

import pyllama
from pyllama import ffi, lib
from pyllama.errors import ClosedError, ContextError, OutputError

pytestmark = pytest.mark.matrix

TOKENS = list(range(40, 52))


@pytest.fixture
def context(tiny_model: Callable[[str], Path]) -> Iterator[pyllama.Context]:
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=256, threads=1) as made:
        yield made


def test_the_numbers_are_llama_cpps_own_memory(context: pyllama.Context) -> None:
    context.decode(TOKENS)
    out = context.logits()
    pointer = lib.llama_get_logits_ith(context.ptr, -1)
    assert out.shape == (len(context.model.vocab),) == (len(out),)
    expected = ffi.unpack(pointer, len(out))
    assert list(out) == expected == [out[i] for i in range(len(out))] == out.copy().tolist()
    assert out[-1] == expected[-1]
    for made in (out.numpy(), numpy.asarray(out)):
        assert made.dtype == numpy.float32 and made.tolist() == expected
        assert made.ctypes.data == int(ffi.cast("intptr_t", pointer)), "no copy"
    wide = numpy.asarray(out, dtype=numpy.float64)
    assert wide.dtype == numpy.float64 and wide.tolist() == expected
    with pytest.raises(IndexError):
        out[len(out)]


def test_what_is_written_there_is_sampled_from(context: pyllama.Context) -> None:
    context.decode(TOKENS)
    context.logits().numpy()[77] = 1e6
    with pyllama.Sampler(pyllama.SamplerParams(temperature=0)) as sampler:
        assert sampler.sample(context) == 77


def test_stale_outputs_raise(context: pyllama.Context) -> None:
    context.decode(TOKENS)
    out = context.logits()
    kept = out.copy()
    assert out.valid and isinstance(kept, array)
    context.decode([60])
    assert not out.valid and "no longer valid" in repr(out)
    for use in (
        lambda: out[0],
        lambda: list(out),
        out.copy,
        out.numpy,
        lambda: numpy.asarray(out),
        lambda: numpy.add(out, 1),
    ):
        with pytest.raises(OutputError, match="has decoded since"):
            use()
    assert kept != context.logits().copy()


def test_a_decode_that_failed_makes_them_stale_too(context: pyllama.Context) -> None:
    context.decode(TOKENS)
    out = context.logits()
    with pytest.raises(pyllama.errors.DecodeError):
        context.decode([60] * 300)
    with pytest.raises(OutputError):
        out[0]


def test_no_decode_under_an_array(context: pyllama.Context) -> None:
    context.decode(TOKENS)
    whole = context.logits().numpy()
    expected = whole.copy()
    part = memoryview(whole[5:].reshape(-1, 1))  # cut out of it, in another form
    before = context.sequence().length
    del whole
    for _ in range(2):
        with pytest.raises(OutputError, match=r"1 arrays .*`del` them"):
            context.decode([60])
    assert context.sequence().length == before and part[0, 0] == expected[5]
    del part
    gc.collect()
    context.decode([60])
    assert context.sequence().length == before + 1


def test_an_array_outlives_the_closing(tiny_model: Callable[[str], Path]) -> None:
    """Closing twice, in any order, frees what the array looks at when the array goes, and once."""
    for first in ("model", "context"):
        model = pyllama.Model(tiny_model("attention"))
        context = model.context(n_ctx=256, threads=1)
        other = model.context(n_ctx=256, threads=1)
        context.decode(TOKENS)
        out = context.logits()
        seen, expected = out.numpy(), out.copy()
        held_context, held_model = context._owned, model._owned
        for handle in (model, context) if first == "model" else (context, model):
            handle.close()
            handle.close()
        assert model.closed and context.closed and other.closed
        assert held_context.late is not None and held_model.late is not None
        assert seen.tolist() == expected.tolist()
        with pytest.raises(ClosedError):
            out[0]
        assert not out.valid
        del model, context, other, out
        gc.collect()
        assert held_context.late is not None and seen.tolist() == expected.tolist()
        del seen
        gc.collect()
        assert held_context.late is None and held_model.late is None
        assert not held_model.children


def test_dropping_everything_but_the_array(tiny_model: Callable[[str], Path]) -> None:
    model = pyllama.Model(tiny_model("attention"))
    context = model.context(n_ctx=256, threads=1)
    context.decode(TOKENS)
    seen = context.logits().numpy()
    expected, held = seen.tolist(), model._owned
    del model, context
    gc.collect()
    assert seen.tolist() == expected and held.late is not None
    del seen
    gc.collect()
    assert held.late is None


def test_where_there_are_no_outputs(context: pyllama.Context) -> None:
    for index in (-1, 0):
        with pytest.raises(ContextError, match="no logits"):
            context.logits(index)
    context.decode(TOKENS)
    for index in (0, -2, 1000, -1000):
        with pytest.raises(ContextError, match=f"output {index}:"):
            context.logits(index)
    with pytest.raises(ContextError, match="embeddings=True"):
        context.embeddings()
    with pytest.raises(ContextError, match="pooling_type"):
        context.pooled()
    with pytest.raises(ContextError, match="pooling_type"):
        context.pooled(99)


def test_without_numpy(context: pyllama.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    context.decode(TOKENS)
    monkeypatch.setitem(sys.modules, "numpy", None)
    out = context.logits()
    assert max(out) == max(out.copy())
    with pytest.raises(pyllama.errors.UsageError, match="pip install numpy"):
        out.numpy()

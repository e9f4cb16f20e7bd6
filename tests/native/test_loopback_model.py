"""A real model on the loopback device: what the CPU computes, and what happens when the device fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyllama
from pyllama.errors import ContextError, DecodeError, ModelError

from .loopback import Loopback, Mode

pytestmark = pytest.mark.matrix

TWO = pytest.mark.parametrize("loopback", [2], indirect=True)
PROMPT = "Once upon a time"


def logits(context: pyllama.Context) -> bytes:
    """The logits of the last token, bit for bit."""
    size = 4 * pyllama.lib.llama_vocab_n_tokens(context.model.vocab.ptr)
    return bytes(pyllama.ffi.buffer(pyllama.lib.llama_get_logits_ith(context.ptr, -1), size))


def greedy(model: pyllama.Model, n: int = 32, **options: Any) -> tuple[tuple[int, ...], bytes]:
    """The tokens that follow the prompt, and the logits of the last one."""
    with model.context(n_ctx=256, **options) as context:
        tokens = pyllama.generate(context, PROMPT, max_tokens=n, temperature=0).tokens
        return tokens, logits(context)


@pytest.fixture
def cpu_model(test_model: Path) -> Iterator[pyllama.Model]:
    """The model on the CPU alone, its weights as they are: repacked ones are computed by other kernels."""
    with pyllama.Model(test_model, devices=["CPU"], use_extra_bufts=False) as model:
        yield model


@pytest.mark.parametrize("mode", Mode)
def test_same_tokens_and_bits_as_the_cpu(
    loopback: Loopback, cpu_model: pyllama.Model, test_model: Path, mode: Mode
) -> None:
    expected, bits = greedy(cpu_model)
    assert loopback.stats().allocs == 0 and len(expected) == 32
    loopback.mode(mode)
    with pyllama.Model(test_model, devices=["Loopback0"]) as model:
        loaded = loopback.stats()
        found, found_bits = greedy(model)
        stats = loopback.stats()
    assert found == expected
    assert found_bits == bits
    assert loaded.bytes_to_device > 90_000_000
    assert stats.computes >= 32 and stats.nodes > 500 * stats.computes
    vocabulary = len(bits)
    assert stats.bytes_to_host == 32 * vocabulary  # nothing but the logits comes back


@pytest.mark.parametrize("mode", Mode)
def test_a_model_that_is_uploaded_through_a_stream(
    loopback: Loopback, cpu_model: pyllama.Model, test_model: Path, mode: Mode
) -> None:
    """llama.cpp reads the file into a few buffers by turns, and events say when one may be written again."""
    loopback.mode(mode)
    with pyllama.Model(test_model, mmap=False) as model:
        stats = loopback.stats()
        assert stats.async_set_bytes > 90_000_000 and stats.event_records == stats.async_sets
        assert greedy(model, 8) == greedy(cpu_model, 8)
    assert loopback.stats().dropped == 0


def test_it_is_chosen_by_default(loopback: Loopback, test_model: Path) -> None:
    with pyllama.Model(test_model):
        assert loopback.stats().live_bytes > 90_000_000


@TWO
@pytest.mark.parametrize("refuse", [False, True])
def test_two_devices_split_a_model(
    loopback: Loopback, cpu_model: pyllama.Model, test_model: Path, refuse: bool
) -> None:
    """With pipeline parallelism: llama.cpp then uses events, and copies from one stream to the other."""
    expected, bits = greedy(cpu_model)
    for device in (0, 1):
        loopback.refuse_async_copies(refuse, device)
        loopback.refuse_copies(refuse, device)
    with pyllama.Model(test_model, devices=["Loopback0", "Loopback1"]) as model:
        weights = [loopback.stats(device).live_bytes for device in (0, 1)]
        assert min(weights) > 30_000_000 and sum(weights) > 90_000_000
        assert greedy(model) == (expected, bits)
    first, second = loopback.stats(0), loopback.stats(1)
    assert first.computes >= 32 and second.computes >= 32
    assert first.events > 0 and first.event_records > 0 and second.event_records > 0
    if refuse:
        assert second.copies_in == 0 and second.copies_refused > 0 and first.gets >= 32
    else:
        assert second.copies_in == second.async_copies >= 32
        assert first.gets == 0 and second.gets == 0


def test_batches_of_a_prompt_on_two_streams(
    loopback: Loopback, cpu_model: pyllama.Model, test_model: Path
) -> None:
    """Several ubatches are in the stream before anybody waits."""
    tokens = cpu_model.tokenize(" ".join(str(i) for i in range(150)))
    found = []
    for model in (cpu_model, pyllama.Model(test_model)):
        with model.context(n_ctx=1024, n_batch=512, n_ubatch=64) as context:
            context.decode(tokens[:400])
            found.append(logits(context))
        if model is not cpu_model:
            model.close()
    assert found[0] == found[1]


def test_failed_allocations_are_exceptions(loopback: Loopback, test_model: Path) -> None:
    loopback.fail_alloc()
    with pytest.raises(ModelError, match="Loopback0"):
        pyllama.Model(test_model)
    loopback.limit_alloc(90_000_000)
    with pytest.raises(ModelError, match="Loopback0"):
        pyllama.Model(test_model)
    loopback.defaults()
    assert loopback.stats().live == 0
    with pyllama.Model(test_model) as model:
        for n in (1, 2):  # the KV cache, the graphs
            loopback.fail_alloc(n)
            with pytest.raises(ContextError):
                model.context(n_ctx=256)
            assert loopback.stats().live == 1
        assert loopback.get("fail_alloc") == 0 and loopback.stats().allocs_failed == 4
        assert len(greedy(model, 4)[0]) == 4


def test_a_failed_graph_is_an_exception_and_the_next_works(loopback: Loopback, test_model: Path) -> None:
    with pyllama.Model(test_model) as model, model.context(n_ctx=256) as context:
        tokens = model.tokenize(PROMPT)
        context.decode(tokens)
        expected = logits(context)
        context.clear()
        loopback.fail_compute()
        with pytest.raises(DecodeError) as failure:
            context.decode(tokens)
        assert failure.value.code < 0
        context.decode(tokens)
        assert logits(context) == expected
    assert loopback.stats().computes_failed == 1

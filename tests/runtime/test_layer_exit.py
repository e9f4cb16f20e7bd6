"""Contexts that stop after some layers: their memory, their independence, and what is refused.

That they give what a model cut to those layers does is shown for every architecture in test_architectures.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy
import pytest
from native.loopback import Loopback
from sequences import Logits, Sequences

import pyllama
from pyllama import ffi, lib
from pyllama.errors import ContextError

pytestmark = pytest.mark.matrix

TinyModel = Callable[[str], Path]
TOKENS: list[int] = numpy.random.default_rng(9).integers(3, 320, 24).tolist()
KINDS = ("attention", "swa", "mamba2", "rwkv7", "hybrid", "moe", "hybrid-swa", "delta", "rollback")


def layers_of(path: Path) -> int:
    with pyllama.Model(path, vocab_only=False) as model:
        return int(lib.llama_model_n_layer(model.ptr))


def read(path: Path, tokens: Sequence[int], **options: object) -> Logits:
    with Sequences(path, n_ctx=64, **options) as s:
        return s.decode(tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_all_layers_are_the_model(tiny_model: TinyModel, kind: str) -> None:
    path = tiny_model(kind)
    whole = read(path, TOKENS)
    n = layers_of(path)
    for given in (0, n):
        assert numpy.array_equal(read(path, TOKENS, n_layers=given), whole)
    with Sequences(path, n_ctx=64) as s:
        assert s.context.n_layers == n
    for fewer in range(1, n):
        assert not numpy.allclose(read(path, TOKENS, n_layers=fewer), whole, atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_contexts_of_one_model_at_different_depths(tiny_model: TinyModel, kind: str) -> None:
    """By turns, token by token: graphs that are kept belong to one context."""
    path = tiny_model(kind)
    n = layers_of(path)
    depths = [*range(1, n + 1)]
    expected = {depth: read(path, TOKENS, n_layers=depth) for depth in depths}
    with pyllama.Model(path) as model:
        contexts = {depth: model.context(n_ctx=64, threads=1, n_layers=depth) for depth in depths}
        for i, token in enumerate(TOKENS):
            for depth, context in contexts.items():
                assert context.n_layers == depth
                context.decode([token])
                size = 4 * len(model.vocab)
                got = numpy.frombuffer(
                    ffi.buffer(lib.llama_get_logits_ith(context.ptr, -1), size), numpy.float32
                )
                # one at a time adds up in another order than all at once
                numpy.testing.assert_allclose(got, expected[depth][i], atol=0.05)
        for context in contexts.values():
            context.close()


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_and_their_states(tiny_model: TinyModel, kind: str) -> None:
    """Several sequences, one restored into another, none left; also where one kind of layer is missing."""
    path = tiny_model(kind)
    for depth in range(1, layers_of(path)):
        with Sequences(path, n_ctx=256, n_seq_max=3, n_layers=depth) as s:
            alone = s.decode(TOKENS, seq=0)
            s.decode(TOKENS[:7], seq=1)
            first, second = s.context.sequence(0), s.context.sequence(1)
            with first.checkpoint() as saved:
                after = s.decode([20, 30, 40], seq=0)
                second.restore(saved)
                numpy.testing.assert_allclose(s.decode([20, 30, 40], seq=1), after, atol=0.05)
                numpy.testing.assert_allclose(s.decode([50], seq=1), s.decode([50], seq=0), atol=0.05)
            assert s.remove(0) and s.end(0) == -1
            s.clear()
            assert numpy.array_equal(s.decode(TOKENS, seq=0), alone)


@pytest.mark.parametrize("kind", ["attention", "mamba2", "hybrid"])
def test_a_state_of_another_depth_is_refused(tiny_model: TinyModel, kind: str) -> None:
    path = tiny_model(kind)
    n = layers_of(path)
    with Sequences(path, n_ctx=64) as whole, Sequences(path, n_ctx=64, n_layers=n - 1) as part:
        part.decode(TOKENS)
        expected = part.decode([20])
        whole.decode(TOKENS)
        size = lib.llama_state_seq_get_size(whole.context.ptr, 0)
        blob = ffi.new("uint8_t[]", size)
        assert lib.llama_state_seq_get_data(whole.context.ptr, blob, size, 0) == size
        assert lib.llama_state_seq_get_size(part.context.ptr, 0) < size
        assert lib.llama_state_seq_set_data(part.context.ptr, blob, size, 0) == 0
        part.clear()
        part.decode(TOKENS)
        assert numpy.array_equal(part.decode([20]), expected)


def test_layers_left_out_take_no_memory(loopback: Loopback, tiny_model: TinyModel) -> None:
    n_ctx = 1024
    per_layer = {
        "attention": n_ctx * 2 * 2 * 64 * 2,  # tokens, K and V, heads, size, bytes
        "mamba2": (3 * (128 + 2 * 128) + 128 * 128) * 4,  # what the convolution keeps, and the state
    }
    for kind, size in per_layer.items():
        path = tiny_model(kind)
        with pyllama.Model(path) as model:
            n, live, told = layers_of(path), {}, {}
            for depth in range(1, n + 1):
                before = loopback.stats().live_bytes
                with model.context(n_ctx=n_ctx, n_layers=depth, n_ubatch=32) as context:
                    live[depth] = loopback.stats().live_bytes - before
                    if pyllama.build_info().pin != "2025-08":
                        rows = [row.context for row in context.memory() if row.device == "Loopback0"]
                        told[depth] = sum(rows)
            for depth in range(1, n):
                assert live[depth + 1] - live[depth] >= size  # more for what lies between layers
            for depth in told:
                assert told[depth] == depth * size


@pytest.mark.parametrize("n", [-1, -(2**31), 4, 5, 1000, 2**31 - 1])
def test_out_of_range(tiny_model: TinyModel, n: int) -> None:
    with pyllama.Model(tiny_model("attention")) as model:
        with pytest.raises(ContextError, match=f"n_layers={n}.*3 layers, it cannot stop after {n}"):
            model.context(n_ctx=64, n_layers=n)
        with model.context(n_ctx=64, n_layers=2) as context:  # nothing is left of it
            context.decode([20])


@pytest.mark.parametrize("flash", [0, 1])
def test_with_and_without_flash_attention(tiny_model: TinyModel, flash: int) -> None:
    field = (
        {"flash_attn": bool(flash)} if pyllama.build_info().pin == "2025-08" else {"flash_attn_type": flash}
    )
    path = tiny_model("attention")
    rows = [read(path, TOKENS, n_layers=depth, **field) for depth in (1, 2, 3)]
    assert all(numpy.isfinite(row).all() for row in rows)
    assert not numpy.allclose(rows[0], rows[1], atol=0.1) and not numpy.allclose(rows[1], rows[2], atol=0.1)


def test_only_the_last_row_is_computed_through_the_end(tiny_model: TinyModel) -> None:
    """Where one token's logits are wanted, the last layer that is computed drops the other rows."""
    path = tiny_model("attention")
    for depth in (1, 2):
        with Sequences(path, n_ctx=64, n_layers=depth) as s:
            every = s.decode(TOKENS)[-1]
            s.clear()
            s.context.decode(TOKENS)
            size = 4 * s.n_vocab
            last = numpy.frombuffer(
                ffi.buffer(lib.llama_get_logits_ith(s.context.ptr, -1), size), numpy.float32
            )
            numpy.testing.assert_allclose(last, every, atol=1e-4)

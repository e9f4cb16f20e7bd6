"""Batches: they compute what a sequence alone computes, and nothing put into one ends the process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import pyllama
from pyllama import Batch
from pyllama.errors import ClosedError, ContextError, DecodeError, UsageError

pytestmark = pytest.mark.matrix

ONE, TWO = list(range(40, 60)), list(range(100, 117))


@pytest.mark.parametrize("kind", ["attention", "mamba2", "hybrid", "swa"])
def test_several_sequences_in_one_decode(tiny_model: Callable[[str], Path], kind: str) -> None:
    with pyllama.Model(tiny_model(kind)) as model:
        alone = []
        for tokens in (ONE, TWO):
            with model.context(n_ctx=256, threads=1) as context, Batch(64) as batch:
                batch.extend(tokens, output=True)
                context.decode(batch)
                alone.append([numpy.array(context.logits(i).copy()) for i in range(len(tokens))])
        with model.context(n_ctx=512, n_seq_max=2, kv_unified=True, threads=1) as context, Batch(64) as batch:
            for turn in (slice(0, 9), slice(9, None)):  # the second time positions go on by themselves
                batch.clear()
                places = [batch.extend(t[turn], seq=i, output=True) for i, t in enumerate((ONE, TWO))]
                assert len(batch) == len(places[0]) + len(places[1])
                context.decode(batch)
                for expected, where in zip(alone, places, strict=True):
                    for row, place in zip(expected[turn], where, strict=True):
                        # Rounding differs with the shape of the batch.
                        assert numpy.abs(numpy.asarray(context.logits(place).copy()) - row).max() < 0.05
            assert [context.sequence(i).length for i in (0, 1)] == [len(ONE), len(TWO)]


def test_which_tokens_give_outputs(tiny_model: Callable[[str], Path]) -> None:
    with (
        pyllama.Model(tiny_model("attention")) as model,
        model.context(n_ctx=256) as context,
        Batch(64) as batch,
    ):
        batch.extend(ONE)
        middle = batch.add(70, output=True)
        batch.add(71)
        last = batch.add(72, output=True)
        context.decode(batch)
        assert context.logits(middle).copy() == context.logits(-2).copy()
        assert context.logits(last).copy() == context.logits(-1).copy() != context.logits(-2).copy()
        assert context.logits(len(ONE) - 1).copy() == context.logits(-3).copy()
        with pytest.raises(ContextError, match="no logits"):
            context.logits(middle + 1)


def test_shared_beginning(tiny_model: Callable[[str], Path]) -> None:
    """Tokens in two sequences at once are computed once and seen by both."""
    with pyllama.Model(tiny_model("attention")) as model:
        with model.context(n_ctx=256, threads=1) as context:
            context.decode([*ONE, 99])
            expected = numpy.array(context.logits().copy())
        with (
            model.context(n_ctx=256, n_seq_max=2, kv_unified=True, threads=1) as context,
            Batch(64, n_seq_max=2) as batch,
        ):
            batch.extend(ONE, seq=(0, 1))
            context.decode(batch)
            assert [context.sequence(i).length for i in (0, 1)] == [len(ONE)] * 2
            context.sequence(1).feed([99])
            assert numpy.abs(numpy.array(context.logits().copy()) - expected).max() < 0.05
            assert context.sequence(0).length == len(ONE)


def test_sharing_needs_one_cache(tiny_model: Callable[[str], Path]) -> None:
    with (
        pyllama.Model(tiny_model("attention")) as model,
        model.context(n_ctx=256, n_seq_max=2) as context,
        Batch(8, n_seq_max=2) as batch,
    ):
        batch.add(5, seq=(0, 1))
        with pytest.raises(ContextError, match="kv_unified=True"):
            context.decode(batch)


def test_wrong_use_is_an_error(tiny_model: Callable[[str], Path]) -> None:
    for options in ({"capacity": 0}, {"capacity": 2**40}, {"capacity": 4, "n_seq_max": 0}):
        with pytest.raises(UsageError, match=r"capacity|n_seq_max"):
            Batch(**options)
    batch = Batch(3, n_seq_max=2)
    for call, words in (
        (lambda: batch.add(2**40), "out of range"),
        (lambda: batch.add(1, seq=(0, 1, 2)), "1 to 2 sequences"),
        (lambda: batch.add(1, seq=()), "1 to 2 sequences"),
        (lambda: batch.add(1, seq=(1, 1)), "twice"),
        (lambda: batch.add(1, seq=2**40), "out of range"),
        (lambda: batch.add(1, pos=-1), "pos=-1"),
    ):
        with pytest.raises(UsageError, match=words):
            call()
    assert len(batch) == 0
    batch.extend([1, 2, 3])
    with pytest.raises(UsageError, match="holds 3 tokens"):
        batch.add(4)
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=256, n_batch=32) as context:
        for tokens, seq, words in (
            ([], 0, "no tokens"),
            ([5000], 0, "not in a vocabulary"),
            ([-1], 0, "not in a vocabulary"),
            ([5], 1, "no sequence 1"),
            ([5], -1, "no sequence -1"),
            ([5] * (context.n_batch + 1), 0, f"takes {context.n_batch} at once"),  # 2025-08 makes it 64
        ):
            with Batch(128) as wrong, pytest.raises(ContextError, match=words):
                wrong.extend(tokens, seq=seq)
                context.decode(wrong)
        with Batch(8) as wrong:
            wrong.add(5, pos=7)
            wrong.add(5, pos=3)
            if pyllama.build_info().pin != "2025-08":  # which takes positions in any order
                with pytest.raises(DecodeError, match="not valid"):
                    context.decode(wrong)
        assert context.sequence().length == 0
        batch.close()
        with pytest.raises(ClosedError):
            context.decode(batch)
        with pytest.raises(ClosedError):
            batch.clear()
            batch.add(1)


RANDOM = """
import random, numpy
source = random.Random(int(sys.argv[2]))
model = pyllama.Model(sys.argv[1])
told = {}
for round in range(40):
    n_seq_max = source.choice([1, 2, 4])
    context = model.context(
        n_ctx=256, n_batch=64, n_ubatch=source.choice([8, 64]), n_seq_max=n_seq_max, threads=1,
        kv_unified=source.random() < 0.5, embeddings=source.random() < 0.3,
    )
    with context, pyllama.Batch(64, n_seq_max=4) as batch:
        for _ in range(12):
            batch.clear()
            for _ in range(source.choice([1, 1, 3, 20, 64])):
                try:
                    batch.add(
                        source.choice([5, 319, 320, -1]) if source.random() < 0.05 else source.randrange(320),
                        seq=source.sample(range(5), source.choice([1, 1, 1, 2, 3])) if source.random() < 0.2
                            else source.randrange(n_seq_max),
                        pos=source.choice([0, 3, 50, 300, 2**30]) if source.random() < 0.03 else None,
                        output=source.random() < 0.3,
                    )
                except pyllama.errors.UsageError:
                    pass
            try:
                context.decode(batch)
                word = "decoded"
            except pyllama.errors.ContextError as error:
                word = type(error).__name__
            told[word] = told.get(word, 0) + 1
            for i in range(-3, 5):
                try:
                    context.logits(i)[0]
                except pyllama.errors.ContextError:
                    pass
            if source.random() < 0.3:
                try:
                    context.sequence(source.randrange(n_seq_max)).remove(source.randrange(40))
                except pyllama.errors.ContextError:
                    pass
print(json.dumps(told))
"""


@pytest.mark.parametrize("kind", ["attention", "swa", "mamba2", "hybrid", "moe"])
def test_random_batches_never_end_the_process(
    child: Any, tiny_model: Callable[[str], Path], kind: str
) -> None:
    told = json.loads(child(RANDOM, tiny_model(kind), str(len(kind))).stdout)
    assert sum(told.values()) == 480
    assert told["decoded"] > 40 and told["ContextError"] > 20 and told["DecodeError"] > 5

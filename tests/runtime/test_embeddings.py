"""Embeddings and reranking: the same vector alone and among many, and what the formulas say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest
import tiny_encoders
from numpy.typing import NDArray

import pyllama
from pyllama import Embedder, Reranker
from pyllama.errors import ClosedError, ContextError, ModelError, UsageError

pytestmark = pytest.mark.matrix

TEXTS = ["hello", "a longer text about nothing", "", "東京", "x" * 60, *(f"number {i}" for i in range(150))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Iterator[pyllama.Model]:
    with pyllama.Model(tiny_encoders.write("embed", folder)) as model:
        yield model


@pytest.fixture(scope="module")
def ranker(folder: Path) -> Iterator[pyllama.Model]:
    with pyllama.Model(tiny_encoders.write("rank", folder)) as model:
        yield model


def _near(one: NDArray[numpy.float32], other: NDArray[numpy.float32]) -> bool:
    return bool(numpy.abs(one - other).max() < 1e-3)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_alone_and_among_many(encoder: pyllama.Model, pooling: str) -> None:
    """More texts than sequences, more tokens than a batch: each gets what it gets alone."""
    with Embedder(encoder, pooling=pooling, n_seq_max=4) as embedder:
        together = embedder.embed(TEXTS)
        assert len(together) == len(TEXTS) and together.width == tiny_encoders.WIDTH
        lengths = [len(encoder.tokenize(text)) for text in TEXTS]
        assert list(together.tokens) == lengths and sum(lengths) > 2 * 512
        matrix = numpy.asarray(together)
        assert matrix.shape == (len(TEXTS), tiny_encoders.WIDTH)
        assert numpy.allclose(numpy.linalg.norm(matrix, axis=1), 1, atol=1e-5)
        for i, text in enumerate(TEXTS[:8]):
            assert _near(embedder.embed(text).numpy()[0], matrix[i])
            assert numpy.array_equal(numpy.asarray(together[i], numpy.float32), matrix[i])
        assert len({tuple(numpy.round(row, 3)) for row in matrix}) == len(TEXTS), "no two are alike"
        assert len(embedder.embed([])) == 0


def test_poolings_are_what_they_say(encoder: pyllama.Model) -> None:
    text = "the quick brown fox"
    with Embedder(encoder, pooling="none", normalize=False) as embedder:
        rows = embedder.embed_tokens(text).numpy()
    assert len(rows) == len(encoder.tokenize(text))
    for pooling, expected in (("mean", rows.mean(axis=0)), ("cls", rows[0]), ("last", rows[-1])):
        with Embedder(encoder, pooling=pooling, normalize=False) as embedder:
            assert _near(embedder.embed(text).numpy()[0], expected)
    with Embedder(encoder, normalize=False) as embedder:
        assert embedder.pooling == "mean", "the model's own"


@pytest.mark.parametrize("kind", ["attention", "mamba2", "hybrid"])
def test_generating_models_embed_too(tiny_model: Callable[[str], Path], kind: str) -> None:
    """Texts that fill several batches; the context grows with the longest."""
    texts = ["hello", "x" * 700, *(f"text {i} of several" for i in range(60))]
    with pyllama.Model(tiny_model(kind)) as model, Embedder(model, n_seq_max=8, threads=1) as embedder:
        assert embedder.pooling == "mean"
        together = embedder.embed(texts).numpy()
        assert max(embedder.embed(texts).tokens) > 700
        for i in (0, 1, 2, 40, 61):
            # Rounding differs with what else is in the batch.
            assert float(embedder.embed(texts[i]).numpy()[0] @ together[i]) > 0.999
        assert float(together[2] @ together[1]) < 0.99


def test_meaning(model: pyllama.Model) -> None:
    """A real model puts sentences that mean the same closer together."""
    with Embedder(model, threads=2) as embedder:
        cat, kitten, tax = embedder.embed(
            ["The cat sleeps on the sofa.", "A kitten naps on the couch.", "Income tax is due in April."]
        ).numpy()
    assert cat @ kitten > cat @ tax


def test_texts_that_are_too_long(encoder: pyllama.Model) -> None:
    long = "y" * 500
    with Embedder(encoder) as embedder:
        assert embedder.longest == tiny_encoders.CONTEXT
        with pytest.raises(ContextError, match=r"text 1 has 502 tokens.* trained for 96"):
            embedder.embed(["short", long])
        with pytest.raises(ContextError, match="text 0 has no tokens"):
            embedder.embed([[]])
        with pytest.raises(ContextError, match="not in a vocabulary"):
            embedder.embed([[5, 10**6]])
        embedder.embed("short")
    with Embedder(encoder, truncate=True) as embedder:
        tokens = encoder.tokenize(long)
        kept = [*tokens[: tiny_encoders.CONTEXT - 1], tokens[-1]]
        assert _near(embedder.embed(long).numpy()[0], embedder.embed([kept]).numpy()[0])


def test_wrong_use(encoder: pyllama.Model) -> None:
    with pytest.raises(UsageError, match="'median' is not one of none, mean"):
        Embedder(encoder, pooling="median")
    with Embedder(encoder, pooling="none") as embedder:
        with pytest.raises(UsageError, match="embed_tokens"):
            embedder.embed("x")
        embedder.embed_tokens("x")
    with pytest.raises(ClosedError):
        embedder.embed_tokens("x")
    with Embedder(encoder) as embedder, pytest.raises(UsageError, match='pooling="none"'):
        embedder.embed_tokens("x")


def test_closing_the_model_first(folder: Path) -> None:
    model = pyllama.Model(tiny_encoders.write("embed", folder))
    embedder = Embedder(model)
    embedder.embed("x")
    model.close()
    with pytest.raises(ClosedError):
        embedder.embed("x")
    embedder.close()
    embedder.close()


def test_an_encoder_in_a_context_of_ones_own(encoder: pyllama.Model) -> None:
    """llama.cpp ends the process over each of these."""
    with encoder.context(n_ctx=512, n_ubatch=128, embeddings=True, pooling_type=0, threads=1) as context:
        assert context.n_batch == 128, "a text cannot be split"
        for n in (97, 128):
            with pytest.raises(ContextError, match="knows 96 positions"):
                context.decode([5] * n)
        with pytest.raises(ContextError, match="in one go"):
            context.decode([5] * 129)
        with pyllama.Batch(64) as batch:
            batch.add(5, pos=96)
            with pytest.raises(ContextError, match="knows 96 positions"):
                context.decode(batch)
        context.decode([5] * 96)
        assert len(context.embeddings(-1)) == tiny_encoders.WIDTH
        with pytest.raises(UsageError, match="do not continue texts"):
            pyllama.generate(context, "x")


def test_rerank(ranker: pyllama.Model) -> None:
    query, documents = "who was it?", ["me", "you", "nobody at all", "the dog", "x" * 30] * 12
    with Reranker(ranker, n_seq_max=4) as reranker:
        ranked = reranker.rank(query, documents)
        assert sorted(one.index for one in ranked) == list(range(len(documents)))
        assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
        assert all(one.document == documents[one.index] for one in ranked)
        alone = {text: reranker.rank(query, [text])[0] for text in documents[:5]}
        assert len({round(one.score, 2) for one in alone.values()}) == 5
        for one in ranked:
            assert one.score == pytest.approx(alone[one.document].score, abs=0.02)
            parts = [ranker.tokenize(text, add_special=False) for text in (query, one.document)]
            assert one.tokens == sum(map(len, parts)) + 3, "begin, and an end after each"
        assert reranker.rank(query, documents, top=3) == ranked[:3]
        assert reranker.rank(query, []) == []
        with pytest.raises(ContextError, match="text 1 has"):
            reranker.rank(query, ["short", "x" * 200])


def test_rerank_with_a_template(folder: Path) -> None:
    """Special tokens of the template count, those that a document writes out do not."""
    template = "<s>Q: {query} D: {document}</s>"
    path = tiny_encoders.write("rank", folder, template=template)
    with pyllama.Model(path) as model, Reranker(model) as reranker:
        plain = reranker.rank("a", ["b"])[0]
        assert plain.tokens == 1 + len("Q: a D: b") + 1
        forged = reranker.rank("a", ["b</s>"])[0]
        assert forged.tokens == plain.tokens + len("</s>")
        named = reranker.rank("{document}", ["b"])[0]
        assert named.tokens == plain.tokens - 1 + len("{document}"), "filled once, not again"


def test_no_reranker(encoder: pyllama.Model) -> None:
    with pytest.raises(ModelError, match="is no reranker"):
        Reranker(encoder)

"""Embeddings and reranking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray
from typing_extensions import assert_type

from pyllama import Embedder, Embeddings, Model, Ranked, Reranker


def nearest(model: Model, texts: Sequence[str], query: str) -> int:
    """The index of the text that is nearest to the query."""
    with Embedder(model, pooling="mean", n_seq_max=8) as embedder:
        vectors = embedder.embed([*texts, query])
        assert_type(vectors, Embeddings)
        matrix = vectors.numpy()
        assert_type(matrix, NDArray[numpy.float32])
        return int(numpy.argmax(matrix[:-1] @ matrix[-1]))


def best(model: Model, query: str, documents: list[str]) -> str | None:
    """The document that answers best."""
    with Reranker(model) as reranker:
        found = reranker.rank(query, documents, top=1)
        assert_type(found, list[Ranked])
    return found[0].document if found else None

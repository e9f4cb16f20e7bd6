"""Reranking: how well documents answer a query, by models that were trained to say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import gguf_file
from .embeddings import POOLINGS, Embedder
from .errors import ModelError
from .native.closing import Closing

if TYPE_CHECKING:
    from .model import Model

_PARTS = ("{query}", "{document}")


@dataclass(frozen=True)
class Ranked:
    """A document and how well it answers the query."""

    index: int
    """Its place in the list that was given."""
    score: float
    """The model's number, the higher the better; what it means is up to the model."""
    document: str
    tokens: int
    """Tokens that were read for it, the query's among them."""


class Reranker(Closing):
    """Scores documents against a query. Keywords are those of `Embedder`.

    Raises ModelError for a model that has no head for it. One thread at a time; close it, or use it in a
    `with` block.
    """

    def __init__(self, model: Model, **options: Any) -> None:
        rank = POOLINGS.index("rank")
        own = model.metadata.get(f"{model.architecture}.pooling_type", "")
        # Without a head llama.cpp gives numbers all the same, or ends the process.
        if own != str(rank) and not any(t.name.startswith("cls") for t in gguf_file.read(model.path).tensors):
            raise ModelError(f"{model.path} is no reranker: it has no tensors that make a score of a text")
        self.model = model
        self._embedder = Embedder(model, pooling="rank", normalize=False, **options)

    def rank(self, query: str, documents: Sequence[str], *, top: int | None = None) -> list[Ranked]:
        """Return the documents, the best first, at most `top` of them.

        Raises ContextError where query and document together are too long.
        """
        pairs = [self._pair(query, document) for document in documents]
        scores = self._embedder.embed(pairs)
        found = [
            Ranked(i, float(scores.data[i * scores.width]), document, len(pairs[i]))
            for i, document in enumerate(documents)
        ]
        found.sort(key=lambda one: (-one.score, one.index))
        return found[:top]

    def _pair(self, query: str, document: str) -> list[int]:
        """Put query and document together as the model was trained to read them."""
        library, model = self.model.library, self.model
        raw, ffi, vocab = library.raw, library.ffi, model.vocab.ptr
        template = raw.llama_model_chat_template(model.ptr, b"rerank")
        if template != ffi.NULL:
            return self._filled(ffi.string(template).decode("utf-8", "replace"), query, document)

        def special(wanted: bool, *tokens: int) -> list[int]:
            return [next(token for token in tokens if token >= 0)] if wanted and max(tokens) >= 0 else []

        begin = special(raw.llama_vocab_get_add_bos(vocab), raw.llama_vocab_bos(vocab))
        eos, sep = raw.llama_vocab_eos(vocab), raw.llama_vocab_sep(vocab)
        end = special(raw.llama_vocab_get_add_eos(vocab), eos, sep)
        between = special(raw.llama_vocab_get_add_sep(vocab), sep)
        parts = [model.tokenize(text, add_special=False) for text in (query, document)]
        return [*begin, *parts[0], *end, *between, *parts[1], *end]

    def _filled(self, template: str, query: str, document: str) -> list[int]:
        """Fill a template whose special tokens count, and those written out in the texts do not."""
        model = self.model
        texts = dict(zip(_PARTS, (query, document), strict=True))
        pieces = _split(template)
        if all(
            model.tokenize(text, add_special=False)
            == model.tokenize(text, add_special=False, parse_special=True)
            for text in texts.values()
        ):
            whole = "".join(texts.get(piece, piece) for piece in pieces)
            return model.tokenize(whole, add_special=False, parse_special=True)
        tokens: list[int] = []
        for piece in pieces:
            own = piece not in texts
            tokens += model.tokenize(texts.get(piece, piece), add_special=False, parse_special=own)
        return tokens

    def close(self) -> None:
        """Free its context."""
        self._embedder.close()


def _split(template: str) -> list[str]:
    """Cut a template at its two places, which stay as pieces of their own."""
    pieces = [template]
    for part in _PARTS:
        cut: list[str] = []
        for piece in pieces:
            for i, text in enumerate(piece.split(part)):
                cut += [part] * (i > 0) + [text] * bool(text)
        pieces = cut
    return pieces

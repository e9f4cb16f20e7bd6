"""Embeddings: texts as vectors, any number of them, many in each decode."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .batch import Batch
from .errors import ClosedError, ContextError, UsageError
from .markup import table
from .native.closing import Closing

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    from .context import Context
    from .model import Model

POOLINGS = ("none", "mean", "cls", "last", "rank")
_SMALLEST = 512  # tokens; a longer text makes the context grow


@dataclass(frozen=True)
class Embeddings:
    """Vectors of one length, each with the number of tokens that it stands for."""

    data: array[float]
    """All numbers, one vector after the other."""
    width: int
    """Numbers in each vector."""
    tokens: tuple[int, ...]
    """Tokens that were read for each vector."""

    def __len__(self) -> int:
        return len(self.data) // self.width if self.width else 0

    def __getitem__(self, index: int) -> array[float]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} vectors, none has the index {index}")
        start = index % len(self) * self.width
        return self.data[start : start + self.width]

    def __iter__(self) -> Iterator[array[float]]:
        return (self[i] for i in range(len(self)))

    def numpy(self) -> NDArray[float32]:
        """Return them as a matrix, a row each, of the same memory. Raises UsageError without NumPy."""
        try:
            import numpy
        except ImportError:
            raise UsageError("NumPy is not installed: `pip install numpy`, or use the arrays") from None
        return numpy.frombuffer(self.data, numpy.float32).reshape(len(self), self.width)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        made = self.numpy() if dtype is None else self.numpy().astype(dtype, copy=bool(copy))
        return made.copy() if copy and dtype is None else made

    def _repr_html_(self) -> str:
        first = ", ".join(f"{value:.4f}" for value in self.data[:4])
        return table(
            {"vectors": len(self), "width": self.width, "tokens": sum(self.tokens), "begins": f"{first} …"}
        )

    def __repr__(self) -> str:
        return f"<Embeddings: {len(self)} vectors of {self.width} numbers>"


class Embedder(Closing):
    """Turns texts into vectors, with a context of its own that grows with the longest text.

    `pooling` makes one vector of the tokens' vectors: `mean`, `cls` (the first token's), `last`, or `none`
    for a vector each; None takes what the model was trained with, and `mean` where it does not say.
    `normalize` gives vectors the length 1. `n_seq_max` texts at most are computed at once. `truncate` cuts
    texts that are longer than the model was trained for, which is an error otherwise. Further keywords are
    those of `Context`.

    One thread at a time. Close it, or use it in a `with` block. Raises UsageError for a pooling that is not
    there.
    """

    def __init__(
        self,
        model: Model,
        *,
        pooling: str | None = None,
        normalize: bool = True,
        n_seq_max: int = 32,
        truncate: bool = False,
        **options: Any,
    ) -> None:
        own = model.metadata.get(f"{model.architecture}.pooling_type", "0")
        if pooling is None:
            number = int(own) if own.isdecimal() and int(own) < len(POOLINGS) else 0
            pooling = POOLINGS[number or 1]
        if pooling not in POOLINGS:
            raise UsageError(f"pooling={pooling!r} is not one of {', '.join(POOLINGS)}")
        self.model = model
        self.pooling = pooling
        self.normalize = normalize
        self.truncate = truncate
        self._options = {"n_seq_max": n_seq_max, "kv_unified": True, **options}
        self._context: Context | None = None
        self._batch: Batch | None = None
        self._closed = False

    @property
    def longest(self) -> int:
        """Tokens that a text may have: what the model was trained for."""
        return self.model.n_ctx_train

    def embed(self, texts: str | Sequence[str] | Sequence[Sequence[int]]) -> Embeddings:
        """Return a vector for each text; texts may be given as tokens too.

        Special tokens written out in a text are not read as such. Raises ContextError for a text without
        tokens and for one that is too long.
        """
        if self.pooling == "none":
            raise UsageError('pooling="none" gives a vector for each token: use `embed_tokens`')
        lists = self._token_lists([texts] if isinstance(texts, str) else texts)
        return self._gather(lists)

    def embed_tokens(self, text: str | Sequence[int]) -> Embeddings:
        """Return a vector for each token of a text; needs `pooling="none"`."""
        if self.pooling != "none":
            raise UsageError('vectors of tokens need an Embedder with pooling="none"')
        return self._gather(self._token_lists([text]))

    def _token_lists(self, texts: Sequence[str | Sequence[int]]) -> list[list[int]]:
        lists = []
        for i, text in enumerate(texts):
            tokens = self.model.tokenize(text) if isinstance(text, str) else list(text)
            if not tokens:
                raise ContextError(f"text {i} has no tokens: leave it out")
            if len(tokens) > self.longest > 0:
                if not self.truncate:
                    raise ContextError(
                        f"text {i} has {len(tokens)} tokens, the model was trained for {self.longest}: split "
                        "it, or use truncate=True"
                    )
                tokens = [*tokens[: self.longest - 1], tokens[-1]]  # the last one may be a mark of the end
            lists.append(tokens)
        return lists

    def _gather(self, lists: list[list[int]]) -> Embeddings:
        data: array[float] = array("f")
        counts: list[int] = []
        width = 0
        context, batch = self._ready(max(map(len, lists), default=1))
        with context.lock:
            for group in _groups(lists, context.n_batch, context.n_seq_max):
                for vector, n in self._decode(context, batch, group):
                    data.extend(_unit(vector) if self.normalize else vector)
                    counts.append(n)
                    width = len(vector)
        return Embeddings(data, width, tuple(counts))

    def _decode(
        self, context: Context, batch: Batch, group: list[list[int]]
    ) -> Iterator[tuple[array[float], int]]:
        context.clear()
        batch.clear()
        for i, tokens in enumerate(group):
            batch.extend(tokens, seq=i, output=True)
        context.decode(batch)
        if self.pooling == "none":
            for i in range(len(batch)):
                yield context.embeddings(i).copy(), 1
        else:
            for i, tokens in enumerate(group):
                yield context.pooled(i).copy(), len(tokens)

    def _ready(self, longest: int) -> tuple[Context, Batch]:
        """Return a context that takes a text of so many tokens at once; a text must not be split."""
        if self._closed:
            raise ClosedError("this Embedder is closed: make a new one")
        context, batch = self._context, self._batch
        if context is None or batch is None or context.closed or context.n_batch < longest:
            size = max(_SMALLEST, 1 << (longest - 1).bit_length())
            self._free()
            number = getattr(self.model.library.raw, f"LLAMA_POOLING_TYPE_{self.pooling.upper()}")
            options = {"n_ctx": size, "n_batch": size, "n_ubatch": size, **self._options}
            context = self.model.context(embeddings=True, pooling_type=number, **options)
            batch = Batch(context.n_batch)
            self._context, self._batch = context, batch
        return context, batch

    def _free(self) -> None:
        for handle in (self._batch, self._context):
            if handle is not None:
                handle.close()
        self._batch = self._context = None

    def close(self) -> None:
        """Free its context. A second call does nothing."""
        self._closed = True
        self._free()

    def __repr__(self) -> str:
        return f"<Embedder pooling={self.pooling!r} of {self.model!r}>"


def _groups(lists: list[list[int]], tokens: int, sequences: int) -> Iterator[list[list[int]]]:
    """Cut a list of texts into runs that fit into one decode each."""
    group: list[list[int]] = []
    total = 0
    for one in lists:
        if group and (total + len(one) > tokens or len(group) == sequences):
            yield group
            group, total = [], 0
        group.append(one)
        total += len(one)
    if group:
        yield group


def _unit(vector: array[float]) -> array[float]:
    """Return the vector of length 1 in that direction; zeros stay zeros."""
    length = math.hypot(*vector)
    return array("f", [value / length for value in vector]) if length > 0 else vector

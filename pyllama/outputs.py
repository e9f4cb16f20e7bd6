"""Logits and embeddings: read where llama.cpp has them, without a copy, and never after the next decode.

llama.cpp writes the outputs of every decode to the same place. An `Output` knows which decode it came
from and raises once there was another one. An array cannot be told that, so while one from `numpy()` is
alive the next decode raises instead: nobody ever reads numbers of another decode, or freed memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .errors import ContextError, OutputError, UsageError

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    from .context import Context

_FLOAT = 4  # bytes
_NO_NUMPY = "NumPy is not installed: `pip install numpy`, or use `copy()`, which needs none"


class Output:
    """A row of 32-bit floats that the last decode computed; made by `Context.logits` and its like.

    Indexing, `copy()`, `numpy()` and `numpy.asarray` raise OutputError after the next decode and
    ClosedError once the context is closed.
    """

    __slots__ = ("_context", "_decode", "_pointer", "_size")

    def __init__(self, context: Context, pointer: Any, size: int) -> None:
        self._context = context
        self._decode = context.decodes
        self._pointer = pointer
        self._size = size

    @property
    def valid(self) -> bool:
        """Whether it can still be read."""
        return not self._context.closed and self._decode == self._context.decodes

    @property
    def shape(self) -> tuple[int]:
        """Its length, as NumPy gives it."""
        return (self._size,)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> float:
        if not -self._size <= index < self._size:
            raise IndexError(f"index {index} is not in a row of {self._size}")
        with self._context.lock:
            self._check()
            return float(self._pointer[index % self._size])

    def __iter__(self) -> Iterator[float]:
        return iter(self.copy())

    def copy(self) -> array[float]:
        """Return the numbers in an array of their own, which stays as it is."""
        values = array("f")
        with self._context.lock:
            values.frombytes(self._buffer())
        return values

    def numpy(self) -> NDArray[float32]:
        """Return a NumPy array of the same memory: no copy, and what is written there is sampled from.

        The context cannot decode while it, or anything cut out of it, is alive: `del` it, or take `.copy()`
        of it. Raises UsageError when NumPy is not installed.
        """
        try:
            import numpy
        except ImportError:
            raise UsageError(_NO_NUMPY) from None
        with self._context.lock:
            made = numpy.frombuffer(self._buffer(), numpy.float32)
            self._context.lend(made)
        return made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        import numpy

        if dtype is not None and numpy.dtype(dtype) != numpy.float32:
            if copy is False:
                raise ValueError(f"float32 cannot become {numpy.dtype(dtype)} without a copy")
            return self.numpy().astype(dtype)
        return self.numpy().copy() if copy else self.numpy()

    def _buffer(self) -> Any:
        self._check()
        return self._context.library.ffi.buffer(self._pointer, self._size * _FLOAT)

    def _check(self) -> None:
        self._context.ptr  # noqa: B018 - raises when it is closed
        if self._decode != self._context.decodes:
            raise OutputError(
                "the context has decoded since this output was made: ask for the new one, and take `copy()` "
                "of what has to last"
            )

    def __repr__(self) -> str:
        return f"<Output of {self._size} numbers{'' if self.valid else ', no longer valid'}>"


def check_not_lent(lent: list[None]) -> None:
    """Raise OutputError while arrays look at what a decode is about to overwrite."""
    if lent:
        raise OutputError(
            f"{len(lent)} arrays of the last outputs are still in use, and a decode would overwrite them: "
            "`del` them first, or keep `.copy()` of them"
        )


def logits(context: Context, index: int) -> Output:
    """Return the logits of an output of the last decode; see `Context.logits`."""
    with context.lock:
        pointer = context.library.raw.llama_get_logits_ith(context.ptr, index)
        if not pointer:
            raise ContextError(
                f"the context has no logits for output {index}: decode tokens first, in a batch with "
                "`output=True` for those whose logits you want"
            )
        return Output(context, pointer, len(context.model.vocab))


def embeddings(context: Context, index: int) -> Output:
    """Return the embedding of one token of the last decode; see `Context.embeddings`."""
    raw = context.library.raw
    with context.lock:
        pointer = raw.llama_get_embeddings_ith(context.ptr, index)
        if not pointer:
            raise ContextError(
                f"the context has no embedding for output {index}: make it with embeddings=True and "
                "pooling_type=0, and decode tokens first"
            )
        return Output(context, pointer, width(context))


def pooled(context: Context, seq_id: int) -> Output:
    """Return the embedding of a whole sequence; see `Context.pooled`."""
    raw = context.library.raw
    with context.lock:
        pointer = raw.llama_get_embeddings_seq(context.ptr, seq_id)
        if not pointer:
            raise ContextError(
                f"the context has no embedding of sequence {seq_id}: make it with embeddings=True and a "
                "pooling_type, and decode tokens of that sequence first"
            )
        ranks = raw.llama_pooling_type(context.ptr) == raw.LLAMA_POOLING_TYPE_RANK
        size = int(raw.llama_model_n_cls_out(context.model.ptr)) if ranks else width(context)
        return Output(context, pointer, size)


def width(context: Context) -> int:
    """Return the length of an embedding that the model gives out."""
    raw = context.library.raw
    get = getattr(raw, "llama_model_n_embd_out", raw.llama_model_n_embd)
    return int(get(context.model.ptr))


def takes_whole(context: Context, embeddings: bool) -> bool:
    """Whether a text has to be computed in one go: every token looks at all others, or they are pooled."""
    raw, model = context.library.raw, context.model
    if not raw.llama_get_memory(context.ptr):  # encoders
        return True
    if embeddings and raw.llama_pooling_type(context.ptr) != raw.LLAMA_POOLING_TYPE_NONE:
        return True
    if hasattr(raw, "llama_get_causal_attn"):
        return not raw.llama_get_causal_attn(context.ptr)
    return model.metadata.get(f"{model.architecture}.attention.causal") == "false"

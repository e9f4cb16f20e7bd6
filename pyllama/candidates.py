"""Every token of a vocabulary with its logit, in the array that llama.cpp's samplers work on."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .native.loader import Library

_LOGIT = 1  # place of the logit among id, logit and probability


class Candidates:
    """The array, for a vocabulary of `n` tokens. One thread at a time."""

    def __init__(self, library: Library, n: int) -> None:
        ffi = library.ffi
        self._ffi = ffi
        self._n = n
        self._data = ffi.new("llama_token_data[]", n)
        self.array = ffi.new("llama_token_data_array *")
        words = memoryview(ffi.buffer(self._data)).cast("i")
        words[0::3] = memoryview(array("i", range(n)))
        self._fresh = bytes(words)
        self._copy = _copier(words)

    def fill(self, logits: Any) -> Any:
        """Take over a row of logits and return the `llama_token_data_array *`, in the vocabulary's order."""
        self._ffi.memmove(self._data, self._fresh, len(self._fresh))
        self._copy(self._ffi.buffer(logits, 4 * self._n))
        made = self.array
        made.data, made.size, made.selected, made.sorted = self._data, self._n, -1, False
        return made


def _copier(words: memoryview) -> Callable[[Any], None]:
    """Return a function that puts a row of floats where the logits are; ten times as fast with NumPy."""
    try:
        import numpy
    except ImportError:
        target = words.cast("B").cast("f")[_LOGIT::3]

        def plain(row: Any) -> None:
            target[:] = memoryview(row).cast("f")

        return plain
    strided = numpy.frombuffer(words, numpy.float32)[_LOGIT::3]

    def quick(row: Any) -> None:
        strided[:] = numpy.frombuffer(row, numpy.float32)

    return quick

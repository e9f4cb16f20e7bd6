"""Going back: tokens at the end of sequence 0 that turned out wrong are taken back, in whatever way works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ContextError, UsageError
from ..saving import PARTIAL, place_of

if TYPE_CHECKING:
    from ..context import Context


class Rewinder:
    """Takes sequence 0 of a context back, by removing tokens or by a checkpoint. The caller holds the lock.

    A recurrent state cannot give tokens back, so it is saved before they come. A window that is cut keeps
    what the last token saw while one ubatch is computed. `where` is the place of the checkpoints. Raises
    UsageError when the context needs checkpoints and the build has none.
    """

    def __init__(self, context: Context, where: str = "auto") -> None:
        raw = context.library.raw
        self._context, self._raw = context, raw
        self._place = getattr(raw, place_of(where), None)
        self._saves = context.recurrent
        if self._saves and self._place is None:
            raise UsageError(
                "this model cannot take tokens back without checkpoints: build with the feature `checkpoints`"
            )
        self._id = 0
        self._length = -1
        ubatch = int(raw.llama_n_ubatch(context.ptr))
        self.longest = context.n_batch if context.rewinds else min(ubatch, context.n_batch)
        """Tokens of one batch that can be taken back."""
        self.nbytes = 0
        """Bytes of tensor data of the checkpoint."""

    def mark(self, length: int) -> bool:
        """Be able to come back to the `length` tokens that are there now; False when there is no room."""
        if not self._saves or self._length == length:
            return True
        found = int(
            self._raw.llama_memory_checkpoint_replace(self._context.ptr, self._id, 0, PARTIAL, self._place)
        )
        if not found:
            self.close()
            return False
        self._id, self._length = found, length
        self.nbytes = int(self._raw.llama_memory_checkpoint_size(self._context.ptr, found))
        return True

    def back(self, length: int) -> int:
        """Forget all but the first `length` tokens, or more of them; return how many are left.

        That is `length`, or where `mark` was called. Raises ContextError when the way back is gone.
        """
        ptr, raw = self._context.ptr, self._raw
        if not self._saves:
            if raw.llama_memory_seq_rm(raw.llama_get_memory(ptr), 0, length, -1):
                return length
        elif 0 <= self._length <= length and raw.llama_memory_checkpoint_restore(ptr, self._id, 0):
            return self._length
        raise ContextError(
            "the tokens of a wrong draft cannot be taken back: leave llama.cpp's checkpoints room, or "
            "generate without draft"
        )

    def close(self) -> None:
        """Free the checkpoint; without the lock, too."""
        if self._id:
            self._context.release_later(self._id)
        self._id, self._length = 0, -1

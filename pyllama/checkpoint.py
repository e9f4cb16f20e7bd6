"""Checkpoints: what a sequence held at a moment, kept on the device or in host memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import prefix
from .errors import ContextError
from .native import log
from .native.handle import Handle
from .saving import PARTIAL, place_of

if TYPE_CHECKING:
    from .context import Context
    from .sequence import Sequence


class Checkpoint(Handle):
    """A saved state of a sequence; made by `Sequence.checkpoint`.

    `.ptr` is llama.cpp's id, a number. It is freed by `release()`, at the end of a `with` block, with its
    context, or when nothing refers to it any more. It remembers the tokens that sequence 0 held, where they
    were known.
    """

    def __init__(self, context: Context, seq_id: int, where: str, partial: bool, replaced: int) -> None:
        place = place_of(where)
        library = context.library
        raw = library.raw
        if not hasattr(raw, "llama_memory_checkpoint_save"):
            raise ContextError("this build has no checkpoints: build it with the feature `checkpoints`")
        self.context = context
        self.partial = partial
        flags = PARTIAL if partial else 0
        with context.lock, log.collected() as lines:
            context.free_released()
            found = raw.llama_memory_checkpoint_replace(
                context.ptr, replaced, seq_id, flags, getattr(raw, place)
            )
            if not found:
                reason = lines() or "the model has no memory"
                raise ContextError(f"no checkpoint of sequence {seq_id}: {reason}")
            super().__init__(int(found), context.release_later, parent=context)
            self.seq_id = int(raw.llama_memory_checkpoint_seq_id(context.ptr, found))
            """The sequence that was saved."""
            self.length = int(raw.llama_memory_checkpoint_pos(context.ptr, found)) + 1
            """Positions that the sequence held, in tokens."""
            self.nbytes = int(raw.llama_memory_checkpoint_size(context.ptr, found))
            """Bytes of tensor data."""
            self.on_host = bool(raw.llama_memory_checkpoint_on_host(context.ptr, found))
            """Whether it went to host memory although the sequence's memory is on a device."""
            self._text = prefix.text_of(context, self.seq_id)

    def release(self) -> None:
        """Free it. A second call does nothing; using it afterwards raises ClosedError."""
        self.close()

    def restore(self, sequence: Sequence) -> None:
        """Put it in place of what `sequence` holds; see `Sequence.restore`."""
        context = sequence.context
        if context is not self.context:
            raise ContextError(
                "the checkpoint belongs to another context: restore it into a sequence of its own one"
            )
        raw: Any = context.library.raw
        with context.lock, log.collected() as lines:
            before = prefix.held(context, sequence.id)
            context.edited()
            done = raw.llama_memory_checkpoint_restore(context.ptr, self.ptr, sequence.id)
            words = lines()
            if not done:
                prefix.unchanged(context, before)
            elif sequence.id == 0:
                prefix.restored(context, before, self._text, partial=self.partial)
        if not done:
            raise ContextError(f"the checkpoint cannot be restored into sequence {sequence.id}: {words}")

    def __repr__(self) -> str:
        if self.closed:
            return "<Checkpoint released>"
        place = "host" if self.on_host else "device"
        what = f"{self.length} tokens, {self.nbytes} bytes, {place}"
        return f"<Checkpoint {self.ptr} of sequence {self.seq_id}: {what}>"

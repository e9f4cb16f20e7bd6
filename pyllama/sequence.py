"""Sequences: independent texts that share a context."""

from __future__ import annotations

import os
from collections.abc import Sequence as Tokens
from typing import TYPE_CHECKING, Any

from . import prefix, states
from .checkpoint import Checkpoint
from .errors import ContextError, UsageError

if TYPE_CHECKING:
    from .context import Context


class Sequence:
    """One of a context's sequences; made by `Context.sequence`. It owns nothing, and costs nothing."""

    __slots__ = ("context", "id")

    def __init__(self, context: Context, seq_id: int) -> None:
        if not 0 <= seq_id < context.n_seq_max:
            raise UsageError(
                f"there is no sequence {seq_id}: the context was made with n_seq_max={context.n_seq_max}"
            )
        self.context = context
        self.id = seq_id

    @property
    def length(self) -> int:
        """Number of positions, in tokens: the next token goes to this one."""
        raw = self.context.library.raw
        with self.context.lock:
            return int(raw.llama_memory_seq_pos_max(self._memory(), self.id)) + 1

    def feed(self, tokens: Tokens[int]) -> None:
        """Append tokens and compute; the logits of the last one are kept, as by `Context.decode`.

        Raises DecodeError when the context is full or the backend fails, ContextError for a token that is not
        in the vocabulary. The sequence is as before then, but where tokens cannot be taken back: the error
        says how many of a long list are in it. `generate` goes on from what sequence 0 was fed.
        """
        context = self.context
        with context.lock:
            before = prefix.held(context, self.id)
            context.decode(tokens, seq_id=self.id)
            prefix.fed(context, before, tokens)

    def remove(self, start: int = 0, stop: int = -1) -> None:
        """Forget the positions from `start` to before `stop` (-1: to the end).

        `generate` goes on from what is left of sequence 0 where that is the beginning. Raises ContextError
        where the memory cannot do it: a recurrent state goes back by a checkpoint only.
        """
        context, raw = self.context, self.context.library.raw
        with context.lock:
            before = prefix.held(context, self.id)
            context.edited()
            done = raw.llama_memory_seq_rm(self._memory(), self.id, start, stop)
            if done:
                prefix.removed(context, before, start, stop)
        if not done:
            raise ContextError(
                f"positions {start} to {stop} of sequence {self.id} cannot be removed from a recurrent "
                "state: restore a checkpoint, or clear the sequence"
            )

    def clear(self) -> None:
        """Forget all of it."""
        self.remove()

    def copy_to(self, other: Sequence) -> None:
        """Let `other` hold the same tokens, in place of its own. In a unified cache the cells are shared.

        Raises ContextError for a sequence of another context.
        """
        if other.context is not self.context:
            raise ContextError(
                "sequences of two contexts share nothing: feed the same tokens to the other one, or copy the "
                "state with llama_state_seq_get_data and llama_state_seq_set_data of pyllama.lib"
            )
        raw = self.context.library.raw
        with self.context.lock:
            memory = self._memory()
            if other.id != self.id:
                self.context.edited()
                raw.llama_memory_seq_rm(memory, other.id, -1, -1)
                raw.llama_memory_seq_cp(memory, self.id, other.id, -1, -1)

    def checkpoint(
        self, where: str = "device", *, partial: bool = False, replace: Checkpoint | None = None
    ) -> Checkpoint:
        """Save what the sequence holds now.

        `where` is "device" (with the sequence's memory; an error when there is no room), "host", or
        "auto": the host when the device has no room. `partial` saves only what cannot be rewound by
        removing tokens, which is recurrent state and sliding windows: restore it into a sequence that
        still has the tokens before it. `replace` is a checkpoint that is released by this, and whose
        memory is taken over where it fits.

        Raises ContextError with llama.cpp's own words when it cannot be taken, UsageError for a `where` that
        is none of these; `replace` stays then.
        """
        if replace is None:
            return Checkpoint(self.context, self.id, where, partial, 0)
        if replace.context is not self.context:
            raise ContextError("the checkpoint to replace belongs to another context")
        made = Checkpoint(self.context, self.id, where, partial, replace.ptr)
        replace.close()  # llama.cpp no longer knows it
        return made

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint, of this or another sequence of the context, in place of what the sequence holds.

        The next logits are the ones that followed then, to the bit, when the cells that it had are
        free. Other sequences are not touched. `generate` goes on from it where it was sequence 0's and is
        again, its tokens were known, and no adapters were set since. Raises ContextError when there is no
        room or it belongs to another context, ClosedError when it was released; the sequence is as before
        then.
        """
        checkpoint.restore(self)

    def save(self, path: str | os.PathLike[str], *, tokens: Tokens[int] | None = None) -> None:
        """Write what the sequence holds to a file, which `load` reads in any process with this model.

        The file is complete or not there: what was at `path` before stays until then. It says which model,
        build and options it is of, and has a checksum. `tokens` is the text that the sequence holds; None
        takes what is known of sequence 0 by the last `generate`, `feed`, `load` or `restore`. Knowing it,
        `generate` goes on from a loaded state. Raises ContextError when there is nothing to save, StateError
        when the file cannot be written, UsageError for another number of tokens.
        """
        states.save(self, path, tokens)

    def load(self, path: str | os.PathLike[str]) -> tuple[int, ...]:
        """Put what `save` wrote in place of what the sequence holds; return its tokens, where they are known.

        Raises StateError for a file that is damaged, or of another model, build or kind of cache, and says
        what differs, or when there is no room; the sequence is as before then. Load only files that you
        trust: the checksum finds damage, not malice.
        """
        return states.load(self, path)

    def dumps(self, *, tokens: Tokens[int] | None = None) -> bytearray:
        """Return what `save` writes."""
        return states.dumps(self, tokens)

    def loads(self, data: bytes | bytearray | memoryview) -> tuple[int, ...]:
        """As `load`, from bytes that `dumps` returned."""
        return states.loads(self, data)

    def _memory(self) -> Any:
        return self.context.library.raw.llama_get_memory(self.context.ptr)

    def __repr__(self) -> str:
        return f"<Sequence {self.id}: {self.length} tokens>"

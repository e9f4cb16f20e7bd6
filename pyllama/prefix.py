"""What a context still holds of the last text, so that a prompt that begins the same is not read again."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .checkpoint import PARTIAL
from .errors import ContextError

if TYPE_CHECKING:
    from .context import Context


@dataclass
class Kept:
    """The tokens that a generation left in sequence 0, as long as nobody else changed the context."""

    tokens: list[int] = field(default_factory=list)
    stamp: tuple[int, ...] = ()
    """`Context.stamp` when the generation ended."""
    checkpoint: int = 0
    """llama.cpp's id of the state before the prompt's last token, where tokens cannot be taken back; or 0.

    Not a `Checkpoint`: that would keep its context alive.
    """
    length: int = 0
    """Tokens in that state."""


def common_length(one: Tokens[int], other: Tokens[int]) -> int:
    """Return how many tokens two texts have in common at their beginning."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))


def prepare(context: Context, tokens: Tokens[int], *, reuse: bool) -> int:
    """Make sequence 0 hold the beginning of `tokens`, and nothing else in the context; return how many.

    At least the last token is left to be read: its logits are needed. The caller holds the lock.
    """
    kept = context.kept
    if reuse and kept.stamp == context.stamp and context.sequence(0).length == len(kept.tokens) > 0:
        shared = _rewind(context, kept, min(common_length(kept.tokens, tokens), len(tokens) - 1))
        if shared:
            kept.tokens = kept.tokens[:shared]
            for other in range(1, context.n_seq_max):
                context.sequence(other).clear()
            return shared
    forget(context)
    context.clear()
    return 0


def forget(context: Context) -> None:
    """Drop what is kept of the last text."""
    if context.kept.checkpoint:
        context.library.raw.llama_memory_checkpoint_delete(context.ptr, context.kept.checkpoint)
    context.kept = Kept()


def _rewind(context: Context, kept: Kept, shared: int) -> int:
    """Take sequence 0 back to its first `shared` tokens, or fewer; return how many, 0 when it cannot be."""
    if shared in (0, len(kept.tokens)):
        return shared
    if context.rewinds:
        try:
            context.sequence(0).remove(shared)
        except ContextError:
            return 0
        return shared
    if not kept.checkpoint or kept.length > shared:
        return 0
    done = context.library.raw.llama_memory_checkpoint_restore(context.ptr, kept.checkpoint, 0)
    return kept.length if done else 0


def save(context: Context) -> None:
    """Keep the state of sequence 0 where tokens cannot be taken back; the caller holds the lock.

    Where there is no room, or a build has no checkpoints, the next prompt is read whole.
    """
    raw, kept = context.library.raw, context.kept
    if context.rewinds or not hasattr(raw, "llama_memory_checkpoint_replace"):
        return
    place = raw.LLAMA_CHECKPOINT_DEVICE_OR_HOST
    found = int(raw.llama_memory_checkpoint_replace(context.ptr, kept.checkpoint, 0, PARTIAL, place))
    if not found:
        if kept.checkpoint:
            raw.llama_memory_checkpoint_delete(context.ptr, kept.checkpoint)
        kept.checkpoint = kept.length = 0
        return
    kept.checkpoint, kept.length = found, context.sequence(0).length

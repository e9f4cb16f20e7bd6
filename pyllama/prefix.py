"""What a context still holds of the last text, so that a prompt that begins the same is not read again."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .errors import ContextError, UsageError
from .saving import PARTIAL, place_of

if TYPE_CHECKING:
    from .context import Context

NEAR = 64
"""Tokens that are rather read once more than that reading them the first time is split."""


@dataclass(frozen=True)
class Reuse:
    """Which states are kept so that the next prompt can go on from one, where tokens cannot be taken back.

    That is so for recurrent and hybrid models and for sliding windows that are cut; others need none of this.
    A state is saved where a prompt departs from the one before (a turn of a chat begins there), every `every`
    tokens, and before the last token where that is more than 64 tokens further. When there are too many,
    those go first that lie close together far from the end. So a follow-up, an edited last message and the
    same prompt again are cheap.
    Raises UsageError for values out of range.
    """

    checkpoints: int = 8
    """States at most; 0 keeps none."""
    every: int = 512
    """Tokens between two of them in a long prompt; 0: only at its borders."""
    nbytes: int | None = 256 << 20
    """Bytes of all of them together at most; None: no limit."""
    where: str = "auto"
    """`device`, `host`, or `auto`: the host when the device has no room. It holds for drafts' states, too."""

    def __post_init__(self) -> None:
        place_of(self.where)
        for name, value in (("checkpoints", self.checkpoints), ("every", self.every)):
            if not 0 <= value < 2**31:
                raise UsageError(f"{name}={value} is out of range: give a count, or 0")
        if self.nbytes is not None and self.nbytes < 0:
            raise UsageError(f"nbytes={self.nbytes} is out of range: give bytes, or None for no limit")


@dataclass(frozen=True)
class Saved:
    """A state of sequence 0. Not a `Checkpoint`: that would keep its context alive."""

    id: int
    """llama.cpp's."""
    length: int
    """Tokens that the sequence held."""
    nbytes: int


@dataclass
class Kept:
    """The tokens that are known to be in sequence 0 while nobody else changes the context; see `held`."""

    tokens: list[int] = field(default_factory=list)
    """In place it is only added to: checkpoints refer to its beginning."""
    stamp: tuple[int, ...] = ()
    """`Context.stamp` when they were the whole."""
    saved: list[Saved] = field(default_factory=list)
    """States on the way there, the shortest first; none where tokens can be taken back."""


@dataclass(frozen=True)
class Text:
    """What sequence 0 held at a moment: the first `length` of `tokens`, a list that may have grown since."""

    tokens: list[int]
    length: int
    adapted: int
    """`Context.adapted` then."""


def common_length(one: Tokens[int], other: Tokens[int]) -> int:
    """Return how many tokens two texts have in common at their beginning."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), shorter)


def held(context: Context, seq_id: int = 0) -> list[int] | None:
    """Return the tokens that a sequence is known to hold, None where they are not; do not change the list.

    They are of sequence 0, when it is empty or nobody has touched the context since somebody wrote down what
    it holds. They were all computed with the adapters that are set now. The caller holds the lock.
    """
    if seq_id:
        return None
    kept, length = context.kept, context.sequence(0).length
    if not length:
        return []
    return kept.tokens if kept.stamp == context.stamp and len(kept.tokens) == length else None


def text_of(context: Context, seq_id: int) -> Text | None:
    """Return the same to be remembered, without a copy; the caller holds the lock."""
    known = held(context, seq_id)
    return None if known is None else Text(known, len(known), context.adapted)


def fed(context: Context, before: list[int] | None, tokens: Tokens[int]) -> None:
    """Take note that `tokens` follow what sequence 0 held `before`; the caller holds the lock."""
    if before is None:
        return
    if before is not context.kept.tokens:  # it was empty
        forget(context)
    context.kept.tokens += map(int, tokens)
    context.kept.stamp = context.stamp


def removed(context: Context, before: list[int] | None, start: int, stop: int) -> None:
    """Take note that positions were removed from sequence 0; the caller holds the lock."""
    if before is None or 0 <= stop < len(before):
        return
    if 0 < start < len(before) and not context.rewinds:
        return  # a window that is cut lacks what the next token would look back at
    _now(context, before, before[: max(start, 0)])


def restored(context: Context, before: list[int] | None, text: Text | None, *, partial: bool) -> None:
    """Take note that a checkpoint is in sequence 0 now, in place of `before`; the caller holds the lock.

    A partial one leaves the tokens that it builds on: they have to be the same ones.
    """
    if text is None or text.adapted != context.adapted:
        return
    tokens = text.tokens[: text.length]
    if not partial or (before is not None and before[: text.length] == tokens):
        _now(context, before, tokens)


def unchanged(context: Context, before: list[int] | None) -> None:
    """Take note that sequence 0 holds what it held `before`, since what was tried failed."""
    if before is context.kept.tokens:
        context.kept.stamp = context.stamp


def _now(context: Context, before: list[int] | None, tokens: list[int]) -> None:
    """Write down that sequence 0 holds `tokens`, and drop states that are not on the way there."""
    kept = context.kept
    shared = common_length(kept.tokens, tokens) if before is kept.tokens else 0
    while kept.saved and kept.saved[-1].length > shared:
        _drop(context, kept, len(kept.saved) - 1)
    context.kept = Kept(tokens, context.stamp, kept.saved)


def prepare(context: Context, tokens: Tokens[int], *, reuse: bool) -> tuple[int, int]:
    """Make sequence 0 hold the beginning of `tokens`, and nothing else in the context.

    Returns how many tokens it holds now, and where `tokens` departs from the text before: not less. At least
    the last token is left to be read: its logits are needed. The caller holds the lock. Whoever read here
    before is ousted, as by `Context.clear`.
    """
    shared = 0
    if reuse and held(context):
        kept = context.kept
        shared = min(common_length(kept.tokens, tokens), len(tokens) - 1)
        length = _rewind(context, kept, shared)
        if length:
            context.kept = Kept(kept.tokens[:length], saved=kept.saved)
            for other in range(1, context.n_seq_max):
                context.sequence(other).clear()
            context.ousted()
            return length, shared
    forget(context)
    context.clear()
    return 0, shared


def forget(context: Context) -> None:
    """Drop what is kept of the last text."""
    for saved in context.kept.saved:
        context.library.raw.llama_memory_checkpoint_delete(context.ptr, saved.id)
    context.kept = Kept()


def read(context: Context, tokens: Tokens[int], held: int, departs: int, policy: Reuse | None) -> None:
    """Read what follows the first `held` tokens, and save states on the way; the caller holds the lock.

    `departs` is as `prepare` gave it.
    """
    raw = context.library.raw
    if (
        context.rewinds
        or policy is None
        or not policy.checkpoints
        or not hasattr(raw, "llama_memory_checkpoint_replace")
    ):
        _feed(context, tokens[held:])
        return
    for place in places(held, departs, len(tokens), policy.every):
        if place > held:
            _feed(context, tokens[held:place])
            held = place
        _save(context, place, policy)
    _feed(context, tokens[held:])


def _feed(context: Context, tokens: Tokens[int]) -> None:
    context.decode(tokens)
    context.kept.tokens += tokens


def places(held: int, departs: int, length: int, every: int) -> Iterator[int]:
    """Yield after how many tokens of a prompt of `length` a state is saved, `held` of them being there."""
    wanted = {held, departs}
    last = max(wanted)
    if not last or length - last > NEAR:  # a state there would split what is read before the first new token
        wanted.add(length - 1)
    if every:
        wanted.update(range(held - held % every + every, length - 1, every))
    yield from sorted(place for place in wanted if max(held, 1) <= place < length)


def expendable(lengths: Tokens[int]) -> int:
    """Return which of several states, the shortest first, is missed least; never the last one.

    What has to be read again without it, against how far from the end it lies: the spacing grows with the
    distance.
    """
    end = lengths[-1]

    def missed(i: int) -> float:
        before = lengths[i - 1] if i else 0
        return (lengths[i + 1] - before) / (end - lengths[i])

    return min(range(len(lengths) - 1), key=missed)


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
    raw = context.library.raw
    while kept.saved:
        last = kept.saved[-1]
        if last.length <= shared and raw.llama_memory_checkpoint_restore(context.ptr, last.id, 0):
            return last.length
        _drop(context, kept, len(kept.saved) - 1)
    return 0


def _drop(context: Context, kept: Kept, index: int) -> None:
    context.library.raw.llama_memory_checkpoint_delete(context.ptr, kept.saved.pop(index).id)


def _save(context: Context, length: int, policy: Reuse) -> None:
    """Keep the state of sequence 0, which holds `length` tokens, more than any that is kept.

    Where there is no room, there is one state less.
    """
    raw, kept = context.library.raw, context.kept
    if kept.saved and kept.saved[-1].length >= length:
        return
    place = getattr(raw, place_of(policy.where))
    replaced = 0
    while len(kept.saved) >= policy.checkpoints:
        index = expendable([*(saved.length for saved in kept.saved), length])
        if len(kept.saved) == policy.checkpoints:  # its memory is taken over
            replaced = kept.saved.pop(index).id
        else:
            _drop(context, kept, index)
    found = int(raw.llama_memory_checkpoint_replace(context.ptr, replaced, 0, PARTIAL, place))
    if not found:
        if replaced:
            raw.llama_memory_checkpoint_delete(context.ptr, replaced)
        return
    nbytes = int(raw.llama_memory_checkpoint_size(context.ptr, found))
    kept.saved.append(Saved(found, length, nbytes))
    if policy.nbytes is None:
        return
    while sum(saved.nbytes for saved in kept.saved) > policy.nbytes:
        if len(kept.saved) == 1:
            _drop(context, kept, 0)
            return
        _drop(context, kept, expendable([saved.length for saved in kept.saved]))

"""The attention cache of a context, in blocks of cells: what is in it, what it costs, what still fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import ContextError, UsageError

if TYPE_CHECKING:
    from .context import Context
    from .sequence import Sequence

_UNLIMITED = 2**31 - 1


@dataclass(frozen=True)
class SequenceKv:
    """What one sequence holds."""

    tokens: int
    """Cells, in the cache that holds the most of them."""
    blocks: int
    """Blocks of all caches."""
    blocks_shared: int
    """Of these, blocks that other sequences hold cells in as well."""
    bytes_own: int
    """Bytes of blocks that nobody else holds: what leaves with the sequence."""
    bytes_shared: int
    """Bytes of the others."""


@dataclass(frozen=True)
class KvStats:
    """What the caches of a context hold; with a sliding window there are two, and all counts are sums."""

    n_caches: int
    """Number of caches; 0 for a model without attention."""
    block_size: int
    """Cells of a block."""
    blocks_total: int
    blocks_used: int
    blocks_shared: int
    """Blocks that more than one sequence holds cells in; each is counted once in `blocks_used`."""
    cells_total: int
    cells_used: int
    max_tokens: int
    """The limit that `kv_tokens` set; 0: none but the size."""
    bytes_reserved: int
    """Bytes of the buffers."""
    bytes_committed: int
    """Bytes that take memory now: with demand paging the pages of used blocks, else all."""
    bytes_used: int
    """Bytes of the cells in use."""
    internal_fragmentation: float
    """0…1: the share of cells of used blocks that hold nothing."""
    external_fragmentation: float
    """0…1: the share of free blocks that lie outside the largest run of free ones."""
    demand_paged: bool
    """Whether some of the memory is taken when it is used, and given back."""
    sequences: dict[int, SequenceKv]
    """Every sequence that holds something, by its number."""


class Kv:
    """The attention cache of a context; made by `Context.kv`. It owns nothing."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        if not hasattr(context.library.raw, "llama_kv_get_stats"):
            raise ContextError(
                "this build knows no blocks of KV cells: build it with the feature `kv-blocks`"
            )
        self._context = context

    def stats(self) -> KvStats:
        """Count, now."""
        raw, context = self._context.library.raw, self._context
        with context.lock:
            found = raw.llama_kv_get_stats(context.ptr)
            each = {i: raw.llama_kv_get_seq_stats(context.ptr, i) for i in range(context.n_seq_max)}
        return KvStats(
            **_fields(found, KvStats, "sequences"),
            sequences={i: SequenceKv(**_fields(one, SequenceKv)) for i, one in each.items() if one.blocks},
        )

    def room(self, sequence: Sequence | int = 0) -> int | None:
        """Return how many more tokens of the sequence could be decoded now; None: as many as you like.

        That is so if no other sequence takes the room first. Raises UsageError for a sequence that there
        is not.
        """
        context = self._context
        with context.lock:
            found = int(context.library.raw.llama_kv_room(context.ptr, self._number(sequence)))
        return None if found == _UNLIMITED else found

    def fits(self, sequence: Sequence | int, n: int) -> bool:
        """Tell whether the next `n` tokens of the sequence fit now. Raises UsageError as `room` does."""
        if n < 0:
            raise UsageError(f"n={n} has to be at least 0")
        room = self.room(sequence)
        return room is None or n <= room

    def _number(self, sequence: Sequence | int) -> int:
        if isinstance(sequence, int):
            return self._context.sequence(sequence).id
        if sequence.context is not self._context:
            raise UsageError("the sequence belongs to another context")
        return sequence.id

    def __repr__(self) -> str:
        found = self.stats()
        return f"<Kv {found.blocks_used} of {found.blocks_total} blocks, {found.bytes_committed >> 20} MiB>"


def fullness(context: Context) -> str:
    """Say in numbers how full the cache is, for an error's text; nothing where the build cannot tell."""
    if not hasattr(context.library.raw, "llama_kv_get_stats"):
        return ""
    kv = context.kv
    stats = kv.stats()
    if not stats.n_caches:
        return ""
    rooms = {i: kv.room(i) or 0 for i in range(context.n_seq_max)}
    best = max(rooms, key=lambda i: rooms[i])
    most = stats.max_tokens or stats.cells_total
    return (
        f" ({stats.cells_used} of {most} cells are in use, {rooms[best]} more tokens of sequence {best} fit)"
    )


def _fields(found: Any, kind: type, *without: str) -> dict[str, Any]:
    return {
        name: getattr(found, name)
        for name in kind.__dataclass_fields__  # type: ignore[attr-defined]
        if name not in without
    }

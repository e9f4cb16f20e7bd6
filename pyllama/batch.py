"""Batches: tokens of several sequences for one decode, each with its position, and which give outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .errors import ContextError, UsageError
from .native.handle import Handle
from .native.loader import load

if TYPE_CHECKING:
    from .context import Context

_MAX = 2**20  # tokens; more than any context takes at once
_MAX_SEQUENCES = 256  # of one token; upstream's limit


class Batch(Handle):
    """Up to `capacity` tokens, each in up to `n_seq_max` sequences; `.ptr` is a `llama_batch`.

        batch = pyllama.Batch(64)
        batch.extend(tokens, seq=0)             # the last one gives an output
        last = batch.add(token, seq=1, output=True)
        ctx.decode(batch)
        ctx.logits(last)

    A position that is not given is the next one of the sequence when the batch is decoded. A batch may be
    decoded again, by any context; `clear` empties it. Raises UsageError for a size that cannot be.
    """

    def __init__(self, capacity: int, *, n_seq_max: int = 1) -> None:
        if not 1 <= capacity <= _MAX:
            raise UsageError(f"capacity={capacity} is out of range: a batch holds 1 to {_MAX} tokens")
        if not 1 <= n_seq_max <= _MAX_SEQUENCES:
            raise UsageError(f"n_seq_max={n_seq_max} is out of range: give 1 to {_MAX_SEQUENCES}")
        raw = load().raw
        self.capacity = capacity
        self.n_seq_max = n_seq_max
        self._positions: list[int | None] = []
        super().__init__(raw.llama_batch_init(capacity, 0, n_seq_max), raw.llama_batch_free)

    def __len__(self) -> int:
        return len(self._positions)

    def add(
        self, token: int, *, seq: int | Iterable[int] = 0, pos: int | None = None, output: bool = False
    ) -> int:
        """Append a token and return its index, by which `Context.logits` knows it.

        Raises UsageError when the batch is full or a number cannot be.
        """
        index = len(self._positions)
        sequences = [seq] if isinstance(seq, int) else list(seq)
        with self.lock:
            batch = self.ptr
            if index >= self.capacity:
                raise UsageError(f"the batch holds {self.capacity} tokens: decode it, or make a larger one")
            if not 1 <= len(sequences) <= self.n_seq_max:
                raise UsageError(
                    f"a token of this batch is in 1 to {self.n_seq_max} sequences, not in {len(sequences)}: "
                    "make the batch with a larger n_seq_max"
                )
            if len(set(sequences)) < len(sequences):
                raise UsageError(f"seq={sequences} names a sequence twice: name each one once")
            if pos is not None and not 0 <= pos < 2**31:
                raise UsageError(f"pos={pos} is out of range: positions count from 0")
            try:
                batch.token[index] = token
                for i, sequence in enumerate(sequences):
                    batch.seq_id[index][i] = sequence
            except OverflowError:
                raise UsageError(f"token {token} of sequences {sequences} is out of range") from None
            batch.n_seq_id[index] = len(sequences)
            batch.logits[index] = output
            self._positions.append(pos)
        return index

    def extend(
        self, tokens: Iterable[int], *, seq: int | Iterable[int] = 0, output: bool | None = None
    ) -> range:
        """Append tokens at the end of a sequence and return their indices.

        `output` says whether they give outputs; None: only the last one.
        """
        given = list(tokens)
        sequences = seq if isinstance(seq, int) else list(seq)
        start = len(self)
        for i, token in enumerate(given):
            last = i == len(given) - 1
            self.add(token, seq=sequences, output=last if output is None else output)
        return range(start, len(self))

    def clear(self) -> None:
        """Take everything out of it."""
        self._positions.clear()

    def sequences(self) -> set[int]:
        """Return the sequences that its tokens are in; the caller holds the lock."""
        batch = self.ptr
        return {batch.seq_id[i][j] for i in range(len(self)) for j in range(batch.n_seq_id[i])}

    def prepared(self, context: Context) -> Any:
        """Return the `llama_batch` for a context, with every position; the caller holds both locks.

        Raises ContextError for what that context cannot take.
        """
        n = len(self._positions)
        if n == 0:
            raise ContextError("there are no tokens to decode: give at least one")
        if n > context.n_batch:
            raise ContextError(
                f"the batch has {n} tokens, the context takes {context.n_batch} at once: use a larger "
                "n_batch (and n_ubatch, where texts cannot be split)"
            )
        batch, raw = self.ptr, context.library.raw
        memory = raw.llama_get_memory(context.ptr)
        highest = len(context.model.vocab)
        ends: dict[int, int] = {}
        for i, given in enumerate(self._positions):
            if not 0 <= batch.token[i] < highest:
                raise ContextError(f"token {batch.token[i]} is not in a vocabulary of {highest}")
            sequences = [batch.seq_id[i][j] for j in range(batch.n_seq_id[i])]
            if len(sequences) > 1 and not context.shares_cells:
                raise ContextError(
                    f"token {i} of the batch is in several sequences, which share no cells: make the context "
                    "with kv_unified=True"
                )
            for sequence in sequences:
                if not 0 <= sequence < context.n_seq_max:
                    raise ContextError(
                        f"there is no sequence {sequence}: the context has n_seq_max={context.n_seq_max}"
                    )
                if sequence not in ends:
                    ends[sequence] = raw.llama_memory_seq_pos_max(memory, sequence) + 1 if memory else 0
            position = max(ends[sequence] for sequence in sequences) if given is None else given
            context.check_position(position)
            batch.pos[i] = position
            ends.update(dict.fromkeys(sequences, position + 1))
        if len(ends) > 1 and context.mixes_streams:
            raise ContextError(
                "2025-08 computes one sequence of a hybrid model at a time: make the context with "
                "kv_unified=True"
            )
        batch.n_tokens = n
        return batch

    def __repr__(self) -> str:
        return f"<Batch {'closed' if self.closed else f'of {len(self)} tokens'}>"

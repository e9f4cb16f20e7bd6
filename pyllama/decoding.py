"""Decoding: tokens and batches into a context's sequences, whole or not at all where that can be."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Tokens
from typing import TYPE_CHECKING, Any

from . import cancelling, decode_errors, outputs
from .batch import Batch
from .errors import ContextError
from .native import log

if TYPE_CHECKING:
    from .context import Context


class Staging:
    """The arrays that a context's tokens are put into for `llama_decode`, and what one call of it takes."""

    def __init__(self, context: Context, *, embeddings: bool) -> None:
        library = context.library
        self._ffi = library.ffi
        self.raw = library.raw
        """The functions of the loaded libraries."""
        self.whole = outputs.takes_whole(context, embeddings)
        """Whether a text cannot be split, since each token looks at all of them."""
        size = library.raw.llama_n_ubatch if self.whole else library.raw.llama_n_batch
        self.capacity = int(size(context.ptr))
        """Tokens that one call takes."""
        self.tokens = self._ffi.new("llama_token[]", self.capacity)
        self.vocab_size = len(context.model.vocab)
        self.count = 0
        """How many decodes there were, those that failed among them."""
        self._named: tuple[Any, Any, Any] | None = None

    def named(self, seq_id: int) -> tuple[Any, Any]:
        """Return the arrays that put a whole batch into a sequence; upstream counts its positions."""
        if self._named is None:
            one = self._ffi.new("llama_seq_id[1]")
            self._named = (
                one,
                self._ffi.new("int32_t[]", [1] * self.capacity),
                self._ffi.new("llama_seq_id *[]", [one] * self.capacity),
            )
        one, counts, ids = self._named
        one[0] = seq_id
        return counts, ids


def decode(context: Context, tokens: Tokens[int], seq_id: int) -> None:
    """Append tokens to a sequence and compute; see `Context.decode`."""
    staging, n = context.staging, len(tokens)
    if not n:
        raise ContextError("there are no tokens to decode: give at least one")
    if staging.whole and n > staging.capacity:
        raise ContextError(
            f"{n} tokens have to be computed in one go, and the context takes "
            f"{staging.capacity}: use a larger n_batch and n_ubatch"
        )
    lowest = most = tokens[0]
    if n > 1:
        lowest, most = min(tokens), max(tokens)
    if lowest < 0 or most >= staging.vocab_size:
        wrong = lowest if lowest < 0 else most
        raise ContextError(f"token {wrong} is not in a vocabulary of {staging.vocab_size}")
    if n > 1:
        tokens = array("i", tokens)  # what is no number is told before any of it is in
    with context.lock:
        context.free_released()
        if context.model.n_positions:
            context.check_position(context.sequence(seq_id).length + n - 1)
        if n < cancelling.LONG and not cancelling.scopes():
            _compute_all(context, tokens, n, seq_id)
        else:
            with cancelling.Undo(context, (seq_id,), n):
                _compute_all(context, tokens, n, seq_id)
        if context.model.rpc_endpoints:
            decode_errors.check_servers(context, n)


def decode_batch(context: Context, batch: Batch) -> None:
    """Compute a batch, which says itself what goes where; see `Context.decode`."""
    with context.lock, batch.lock:
        context.free_released()
        prepared, n = batch.prepared(context), len(batch)
        if n < cancelling.LONG and not cancelling.scopes():
            _compute(context, prepared, n)
        else:
            with cancelling.Undo(context, batch.sequences(), n):
                _compute(context, prepared, n)
        if context.model.rpc_endpoints:
            decode_errors.check_servers(context, n)


def _compute_all(context: Context, tokens: Tokens[int], n: int, seq_id: int) -> None:
    """Decode `n` tokens, as many at a time as a call takes; the caller holds the lock."""
    staging = context.staging
    raw, buffer = staging.raw, staging.tokens
    back = (seq_id, context.sequence(seq_id).length) if n > 1 else None
    for start in range(0, n, staging.capacity):
        part = tokens[start : start + staging.capacity]
        for i, token in enumerate(part):
            buffer[i] = token
        batch = raw.llama_batch_get_one(buffer, len(part))
        if seq_id != 0:
            batch.n_seq_id, batch.seq_id = staging.named(seq_id)
        _compute(context, batch, n, back)


def _compute(context: Context, batch: Any, n: int, back: tuple[int, int] | None = None) -> None:
    """Decode a `llama_batch`, one of `n` tokens or a part of them; the caller holds the lock.

    When it fails, the sequence and position `back` are what to go back to.
    """
    staging, raw = context.staging, context.staging.raw
    if context.model.simulated:
        raise ContextError("the model was loaded with no_alloc, without its weights: load it whole")
    context.check_not_lent()
    staging.count += 1
    mark = raw.pyllama_log_mark()
    code = raw.llama_decode(context.ptr, batch) if context.undo is None else context.undo.decode(batch)
    log.raise_pending()
    if code != 0:
        left = ""
        if code == decode_errors.STOPPED:
            cancelling.end_thread_at_exit()
        elif back is not None:
            left = _take_back(context, *back)
        raise decode_errors.make(context, code, n, mark, left)


def _take_back(context: Context, seq_id: int, end: int) -> str:
    """Forget what a decode that failed left behind position `end`; say what cannot be forgotten."""
    sequence, raw = context.sequence(seq_id), context.library.raw
    inside = sequence.length - end
    if inside > 0 and context.rewinds:
        raw.llama_memory_seq_rm(raw.llama_get_memory(context.ptr), seq_id, end, -1)
        inside = sequence.length - end
    if inside <= 0:
        return ""
    return f"; the first {inside} are in sequence {seq_id} now: clear it, or restore a checkpoint"

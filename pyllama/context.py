"""Contexts: the state of one or more sequences, and decoding into it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from collections.abc import Sequence as Tokens
from typing import TYPE_CHECKING, Any

from . import adapters, cancelling, context_options, decoding, forks, outputs, rpc
from .batch import Batch
from .errors import ContextError, UsageError
from .kv import Kv
from .markup import table
from .memory import BufferMemory, memory_html, memory_of
from .native import log
from .native.handle import Handle
from .native.loader import load
from .prefix import Kept

if TYPE_CHECKING:
    from .adapters import ControlVector, Lora
    from .model import Model
    from .native.loader import Library
    from .outputs import Output
    from .sequence import Sequence

_MAX = 2**31 - 1


class Context(Handle):
    """What a model has read so far.

    `n_ctx` is the number of tokens it can hold (0: as many as the model was trained for),
    `n_batch` how many one decode takes, `n_ubatch` how many are computed at once, `n_seq_max`
    how many sequences there may be, `threads` the number of CPU threads (0: all that this
    process may use). Further keywords set fields of `llama_context_params` by name, or options of
    features: `n_layers` stops after that many layers (0: all) and goes to the output, `n_experts`
    takes that many experts for a token (0: as many as the model does; see `set_experts`), `kv_tokens`
    makes the cache for that many tokens instead of n_ctx, `kv_demand_paged` takes host memory for it
    when it is used and gives it back, `kv_block_size` counts in blocks of so many cells (see `kv`).

    Several threads may use one context: their calls wait for each other. A generation that another one
    ends, since it clears the context, raises ContextError.

    Raises ContextError, with llama.cpp's own last words, when it cannot be made, UsageError for an
    option that this build does not have, ForkError in a child of `os.fork` that cannot compute.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int = 0,
        n_batch: int = 2048,
        n_ubatch: int = 512,
        n_seq_max: int = 1,
        threads: int = 0,
        **fields: Any,
    ) -> None:
        from .model import set_fields

        library = load()
        for name, value in (("n_ctx", n_ctx), ("threads", threads)):
            if not 0 <= value <= _MAX:
                raise ContextError(f"{name}={value} is out of range: give a count, or 0 for the default")
        for name, value in (("n_batch", n_batch), ("n_ubatch", n_ubatch), ("n_seq_max", n_seq_max)):
            if not 1 <= value <= _MAX:
                raise ContextError(f"{name}={value} is out of range: it has to be at least 1")
        if model.vocab_only:
            raise ContextError("the model was loaded with vocab_only: load it whole to make a context")
        self._library = library
        self._released: deque[int] = deque()
        self.n_seq_max = n_seq_max
        self.model = model
        log.sync_level()
        params = library.raw.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = n_batch
        params.n_ubatch = min(n_ubatch, n_batch)
        params.n_seq_max = n_seq_max
        params.n_threads = params.n_threads_batch = threads or available_threads()
        params.no_perf = True
        options, fields = context_options.split(fields)
        set_fields(library.ffi, params, fields)
        forks.check(max(params.n_threads, params.n_threads_batch))
        with model.lock:
            with cancelling.making(), log.collected() as lines:
                ptr = context_options.new_context(library, model.ptr, params, options)
                words = lines()
            lost = rpc.failure(model.rpc_endpoints)
            if lost and ptr != library.ffi.NULL:
                library.raw.llama_free(ptr)
                ptr = library.ffi.NULL
            if ptr != library.ffi.NULL:
                super().__init__(ptr, library.raw.llama_free, parent=model)
        if ptr == library.ffi.NULL:
            reason = lost or words or "llama.cpp gave no reason"
            asked = "".join(f", {name}={value}" for name, value in options.items())
            raise ContextError(
                f"no context with n_ctx={n_ctx}, n_seq_max={n_seq_max}{asked} could be made: {reason}"
            )
        self._edits = 0
        self._flip, self._flipped = False, 0  # see adapters_changed
        self._adapted = 0
        self._gives_embeddings = bool(params.embeddings)
        self.computed_with = context_options.changed(params, library.raw.llama_context_default_params())
        """What was set of the fields that say how a state is computed."""
        self.loras: list[tuple[Lora, float]] = []
        self.control_hash = ""
        """Of the control vector in use; nothing where there is none."""
        self.kept = Kept()
        """What is known of sequence 0; kept by `pyllama.prefix`."""
        hybrid, cut = _is_hybrid(library.raw, model), not params.swa_full
        self.recurrent = hybrid or bool(library.raw.llama_model_is_recurrent(model.ptr))
        """Whether there is state that only a checkpoint brings back."""
        self.rewinds = not (self.recurrent or (cut and library.raw.llama_model_n_swa(model.ptr) > 0))
        """Whether tokens can be taken back off the end of a sequence without a checkpoint."""
        self.cache_types, self.swa_full = (int(params.type_k), int(params.type_v)), not cut
        """ggml's types of K and V, and whether a sliding window's cache keeps all tokens."""
        self.staging = decoding.Staging(self, embeddings=self._gives_embeddings)
        """Where tokens are put to be decoded; kept by `pyllama.decoding`."""
        self._clears = 0
        self.undo: cancelling.Undo | None = None
        """What takes back the decode that is under way, if that can be stopped."""
        self.stop_flag: Any = cancelling.register(self)
        """An `int *`: what is being computed stops when it is not 0. It is read on the CPU."""
        log.raise_pending()
        # What n_ctx is divided by; newer pins say themselves what one sequence may hold.
        self._streams = 1 if params.kv_unified else n_seq_max
        # There a hybrid memory mixes up the streams of a batch, and llama.cpp ends the process.
        self.mixes_streams = (
            hybrid and self._streams > 1 and not hasattr(library.raw, "llama_model_is_hybrid")
        )

    @property
    def library(self) -> Library:
        """The functions of the loaded libraries."""
        return self._library

    @property
    def n_ctx(self) -> int:
        """Tokens that the context can hold."""
        with self.guard:
            return int(self._library.raw.llama_n_ctx(self.ptr))

    @property
    def n_ctx_seq(self) -> int:
        """Tokens that one sequence can hold."""
        raw = self._library.raw
        if hasattr(raw, "llama_n_ctx_seq"):
            with self.guard:
                return int(raw.llama_n_ctx_seq(self.ptr))
        return self.n_ctx // self._streams

    @property
    def longest(self) -> int:
        """Tokens of the longest text of one sequence: what it can hold, and the model knows positions for."""
        size, most = self.n_ctx_seq, self.model.n_positions
        return min(size, most) if most else size

    @property
    def shares_cells(self) -> bool:
        """Whether a token may be in several sequences: with one sequence only, or with kv_unified=True."""
        return self._streams == 1

    @property
    def n_batch(self) -> int:
        """Tokens that one decode takes."""
        return self.staging.capacity

    @property
    def n_layers(self) -> int:
        """Layers that it computes."""
        raw = self._library.raw
        with self.guard:
            if hasattr(raw, "llama_get_n_layer"):
                return int(raw.llama_get_n_layer(self.ptr))
            return int(raw.llama_model_n_layer(self.model.ptr))

    @property
    def n_experts(self) -> int:
        """Experts that it takes for each token; 0 where the model has none."""
        raw = context_options.needed(self._library, "n_experts")
        with self.guard:
            return int(raw.llama_get_n_expert_used(self.ptr))

    def set_experts(self, n: int) -> None:
        """Take `n` experts for each token from the next decode on: fewer are faster and less exact.

        0 is as many as the model does, which is also the most that can be. Raises UsageError for another
        number, or where the model has no experts.
        """
        raw = context_options.needed(self._library, "n_experts")
        with self.lock, log.collected() as lines:
            done = -_MAX <= n <= _MAX and raw.llama_set_n_expert_used(self.ptr, n)
            words = lines()
            if done:
                self._computes_otherwise()
        if not done:
            raise UsageError(f"{n} experts cannot be taken: {words or 'it is no number of experts'}")

    def sequence(self, seq_id: int = 0) -> Sequence:
        """Return one of the `n_seq_max` sequences. Raises UsageError for one that is not there."""
        from .sequence import Sequence

        return Sequence(self, seq_id)

    @property
    def kv(self) -> Kv:
        """The attention cache: its blocks, and what still fits. Raises ContextError without `kv-blocks`."""
        return Kv(self)

    def set_loras(self, loras: Lora | Tokens[Lora] | Mapping[Lora, float]) -> None:
        """Use these LoRA adapters from the next decode on, in place of those before: `[]` for none.

        A mapping gives each one its scale. What was read before stays as it was computed. Raises
        ContextError for an adapter of another model.
        """
        adapters.set_loras(self, loras)

    def set_control_vector(self, vector: ControlVector | None) -> None:
        """Add a control vector from the next decode on, in place of the one before; None for none.

        Raises UsageError for one that does not fit the model.
        """
        adapters.set_control_vector(self, vector)

    def memory(self) -> list[BufferMemory]:
        """Say what the context and its model have allocated, in bytes, per type of buffer."""
        with self.lock:
            return memory_of(self._library, self.ptr)

    def decode(self, tokens: Tokens[int] | Batch, *, seq_id: int = 0) -> None:
        """Append tokens to a sequence and compute; the logits of the last one are kept.

        Any number of tokens is taken, `n_batch` at a time. A `Batch` says itself what goes where, and is
        taken whole. Raises DecodeError when the context is full or the backend fails, Cancelled when it is
        stopped (see `Cancel`; the sequences are put back then), ContextError for a token that is not in the
        vocabulary, OutputError while an array looks at the last outputs. The sequence is as before then, but
        where tokens cannot be taken back (recurrent states, cut windows): the DecodeError says how many of
        a long list are in it.
        """
        if isinstance(tokens, Batch):
            decoding.decode_batch(self, tokens)
        else:
            decoding.decode(self, tokens, seq_id)

    def check_position(self, position: int) -> None:
        """Raise ContextError for a position that the model has no row for in its table."""
        most = self.model.n_positions
        if most and position >= most:
            raise ContextError(
                f"{self.model.architecture} knows {most} positions, and a token would be at {position}: "
                "clear the sequence, or split the text"
            )

    def logits(self, index: int = -1) -> Output:
        """Return the logits of an output of the last decode, one for each token of the vocabulary.

        `index` is the place of the token in the batch; -1 is the last output, -2 the one before. After
        `decode` of a list of tokens only the last one has any. Raises ContextError where there are none.
        """
        return outputs.logits(self, index)

    def embeddings(self, index: int = -1) -> Output:
        """Return the embedding of one token of the last decode; `index` as in `logits`.

        Needs `embeddings=True` and `pooling_type=0` (none). Raises ContextError where there is none.
        """
        return outputs.embeddings(self, index)

    def pooled(self, seq_id: int = 0) -> Output:
        """Return the embedding of a whole sequence, or the scores of a reranker.

        Needs `embeddings=True` and a `pooling_type`. Raises ContextError where there is none.
        """
        return outputs.pooled(self, seq_id)

    def lend(self, array: object) -> None:
        """Do not decode or free what `array` looks at until it is gone; the caller holds the lock."""
        self._owned.lend(array)

    def check_not_lent(self) -> None:
        """Raise OutputError while an array looks at the last outputs; the caller holds the lock."""
        if self._owned.borrowed:
            outputs.check_not_lent(self._owned.borrowed)

    @property
    def decodes(self) -> int:
        """How many decodes there were, those that failed among them: each replaces the outputs."""
        return self.staging.count

    def release_later(self, checkpoint: int) -> None:
        """Free a checkpoint, now, or at the next call when another thread is computing: nobody waits."""
        self._released.append(checkpoint)
        if self.lock.acquire(blocking=False):
            try:
                self.free_released()
            finally:
                self.lock.release()

    def free_released(self) -> None:
        """Free what `release_later` left; the caller holds the lock."""
        while self._released and not self.closed:
            self._library.raw.llama_memory_checkpoint_delete(self.ptr, self._released.popleft())

    @property
    def clears(self) -> int:
        """How often the context was cleared, or another text begun: what was read before is gone."""
        return self._clears

    def ousted(self) -> None:
        """Note that another text begins: a generation that is under way learns of it, as of a clear."""
        self._clears += 1

    @property
    def stamp(self) -> tuple[int, ...]:
        """A value that changes with whatever pyllama does to what the sequences hold."""
        return self.staging.count, self._clears, self._edits

    @property
    def changes(self) -> tuple[int, int]:
        """The same without decodes: as long as it stays, a text has only been added to."""
        return self._clears, self._edits

    def adapters_changed(self) -> None:
        """See to it that the next decode is computed with the adapters that are set now.

        2025-08 computes with the graph of the last decode as long as batches have the same shape. Embeddings
        beside the logits, or none again, make it build another one.
        """
        if self.decodes != self._flipped and not hasattr(self._library.raw, "llama_set_adapters_lora"):
            if self._gives_embeddings:
                raise ContextError(
                    "2025-08 does not notice that adapters change in a context with embeddings=True: set "
                    "them before the first decode, or make a new context"
                )
            self._flipped = self.decodes
            self._flip = not self._flip
            self._library.raw.llama_set_embeddings(self.ptr, self._flip)
        self._computes_otherwise()

    def _computes_otherwise(self) -> None:
        """Note that the same tokens give another state from now on."""
        self._adapted += 1
        self._edits += 1

    @property
    def adapted(self) -> int:
        """How often adapters or experts were set: states from before are not what would be computed now."""
        return self._adapted

    def edited(self) -> None:
        """Note that what the sequences hold was changed, other than by a decode or `clear`."""
        self._edits += 1

    def clear(self, *, zero: bool = False) -> None:
        """Forget every sequence; the memory stays allocated, and is written over when it is used again.

        `zero` writes zeros over all of it now, which takes a while. That helps where a decode gave NaN:
        attention without flash attention also multiplies what is masked, and so reads it again.
        """
        raw = self._library.raw
        with self.lock:
            self._clears += 1
            raw.llama_memory_clear(raw.llama_get_memory(self.ptr), zero)

    def _repr_html_(self) -> str:
        if self.closed:
            return table({"context": "closed"})
        held = ", ".join(str(self.sequence(i).length) for i in range(min(self.n_seq_max, 8)))
        more = ", …" if self.n_seq_max > 8 else ""
        about = {"context of": self.model.path.name, "n_ctx": self.n_ctx, "tokens held": held + more}
        try:
            rows = self.memory()
        except ContextError:  # the oldest pin cannot tell
            return table(about)
        return table(about) + memory_html(rows)

    def __repr__(self) -> str:
        return f"<Context {'closed' if self.closed else f'n_ctx={self.n_ctx}'} of {self.model!r}>"


def _is_hybrid(raw: Any, model: Model) -> bool:
    if hasattr(raw, "llama_model_is_hybrid"):
        return bool(raw.llama_model_is_hybrid(model.ptr))
    parts = {key.split(".")[1] for key in model.metadata if "." in key}  # 2025-08
    return not raw.llama_model_is_recurrent(model.ptr) and not parts.isdisjoint({"ssm", "shortconv", "wkv"})


def available_threads() -> int:
    """Return the number of CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1

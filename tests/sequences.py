"""Decode into chosen sequences through the C API, in this process, and look at every logit: for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

import pyllama
from pyllama import ffi, lib

Logits = NDArray[numpy.float32]


class Sequences:
    """A model and one context of it; closed with `close`, or as a context manager.

    One thread, so that results do not depend on how work is shared out. Further keywords set fields of
    `llama_context_params`. `devices` are those of `pyllama.Model`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        n_ctx: int = 256,
        n_seq_max: int = 1,
        devices: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        self.model = pyllama.Model(path, devices=devices)
        self.context = self.model.context(n_ctx=n_ctx, n_seq_max=n_seq_max, threads=1, **options)
        self.memory: Any = lib.llama_get_memory(self.context.ptr)
        self.n_vocab = len(self.model.vocab)

    def __enter__(self) -> Sequences:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the context and the model."""
        self.context.close()
        self.model.close()

    def decode(self, tokens: Sequence[int], *, seq: int = 0, start: int | None = None) -> Logits:
        """Append `tokens` to a sequence, in one batch, at its end unless `start` says where.

        Returns the logits after each of them, one row a token. Raises RuntimeError when llama_decode fails.
        """
        return self.decode_all({seq: tokens}, start=start)[seq]

    def decode_all(
        self, tokens: Mapping[int, Sequence[int]], *, start: int | None = None
    ) -> dict[int, Logits]:
        """The same for several sequences in one batch."""
        batch = lib.llama_batch_init(sum(map(len, tokens.values())), 0, 1)
        try:
            rows: dict[int, list[int]] = {}
            for seq, words in tokens.items():
                first = self.end(seq) + 1 if start is None else start
                rows[seq] = list(range(batch.n_tokens, batch.n_tokens + len(words)))
                for i, word in enumerate(words):
                    n = batch.n_tokens
                    batch.token[n], batch.pos[n], batch.logits[n] = word, first + i, 1
                    batch.n_seq_id[n], batch.seq_id[n][0] = 1, seq
                    batch.n_tokens += 1
            code = lib.llama_decode(self.context.ptr, batch)
            if code != 0:
                raise RuntimeError(f"llama_decode gave {code}")
            return {seq: self._logits(places) for seq, places in rows.items()}
        finally:
            lib.llama_batch_free(batch)

    def _logits(self, places: Iterable[int]) -> Logits:
        n = self.n_vocab
        rows = [ffi.buffer(lib.llama_get_logits_ith(self.context.ptr, i), 4 * n) for i in places]
        return numpy.stack([numpy.frombuffer(bytes(row), numpy.float32) for row in rows])

    def end(self, seq: int = 0) -> int:
        """The last position of a sequence, -1 when it is empty."""
        return int(lib.llama_memory_seq_pos_max(self.memory, seq))

    def remove(self, seq: int = 0, start: int = -1, stop: int = -1) -> bool:
        """`llama_memory_seq_rm`: positions `start` to before `stop`; -1 is open."""
        return bool(lib.llama_memory_seq_rm(self.memory, seq, start, stop))

    def copy(self, source: int, to: int, start: int = -1, stop: int = -1) -> None:
        """`llama_memory_seq_cp`."""
        lib.llama_memory_seq_cp(self.memory, source, to, start, stop)

    def clear(self) -> None:
        """Forget everything, the data too."""
        lib.llama_memory_clear(self.memory, True)

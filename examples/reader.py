"""A model that reads, and can go back: what speculative.py needs of the target and of a model that drafts."""

from __future__ import annotations

from collections.abc import Sequence

from phases import Clock

import pyllama
from pyllama import ffi, lib
from pyllama.errors import ContextError, DecodeError

LONGEST = 64  # tokens of a draft


class Reader:
    """A model that reads tokens, chooses the likeliest next one, and can go back.

    `where` is the place of its checkpoints: device, host, or none, and then it reads again.
    """

    def __init__(self, model: pyllama.Model, n_ctx: int, where: str, clock: Clock) -> None:
        self.context = model.context(n_ctx=n_ctx)
        self.sequence = self.context.sequence()
        self.tokens: list[int] = []
        self.checkpoint: pyllama.Checkpoint | None = None
        self._where, self._clock = where, clock
        self._greedy = pyllama.Sampler(pyllama.SamplerParams(temperature=0))
        self._batch = ffi.gc(lib.llama_batch_init(LONGEST + 1, 0, 1), lib.llama_batch_free)
        self.sequence.feed([0, 0])
        try:
            self.sequence.remove(1)
            self._removes = True
        except ContextError:
            self._removes = False
        self.context.clear()

    def feed(self, tokens: Sequence[int]) -> None:
        """Read tokens; `choice` is what follows."""
        if tokens:
            self.sequence.feed(tokens)
            lib.llama_synchronize(self.context.ptr)  # else a later phase would wait for this one
            self.tokens += tokens

    def choice(self, i: int = -1) -> int:
        """The likeliest token after the i-th of the last batch."""
        return self._greedy.sample(self.context, i)

    def read(self, tokens: Sequence[int]) -> list[int]:
        """Read up to LONGEST + 1 tokens in one batch; return the choice after each."""
        batch = self._batch
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, len(self.tokens) + i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, self.sequence.id
        batch.n_tokens = len(tokens)
        code = lib.llama_decode(self.context.ptr, batch)
        if code != 0:
            raise DecodeError(f"{len(tokens)} tokens could not be decoded: llama_decode gave {code}", code)
        self.tokens += tokens
        return [self.choice(i) for i in range(len(tokens))]

    def save(self) -> None:
        """Take a checkpoint in place of the last one, where tokens cannot be removed."""
        if not self._removes and self._where != "none":
            with self._clock.phase("save"):
                self.checkpoint = self.sequence.checkpoint(self._where, partial=True, replace=self.checkpoint)

    def back_to(self, n: int) -> None:
        """Forget all but the first n tokens."""
        if n >= len(self.tokens):
            return
        kept = self.tokens[:n]
        with self._clock.phase("restore"):
            if self._removes:
                self.sequence.remove(n)
            elif self.checkpoint and self.checkpoint.length <= n:
                self.sequence.restore(self.checkpoint)
                lib.llama_synchronize(self.context.ptr)
            else:
                self.sequence.clear()
            self.tokens = kept[: self.sequence.length]
        if len(self.tokens) < n:
            with self._clock.phase("reread"):
                self.feed(kept[len(self.tokens) :])

"""Where the tokens of a generation come from: one step of the model for each, or drafts that it checks.

A draft is read behind the last token in one batch, with the logits of each place. Every place is sampled
with the same chain of samplers, in order, and only as far as the draft said what came out: so samplers,
grammar and random numbers go through the same states as without drafts, and the tokens are the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from ..batch import Batch
from ..context import Context
from ..decode_errors import NO_ROOM
from ..errors import ContextError, DecodeError
from ..logprobs import Scorer, TokenLogprob
from ..response import Drafting
from ..sampler import Sampler
from .drafting import Draft, Pace, price
from .rewinding import Rewinder

Step = tuple[int, TokenLogprob | None]

_REREAD = 4  # tokens that a batch may read once more, after a wrong draft, beside a draft


class Source(Protocol):
    """Gives the next token; the caller holds the context's lock, and the prompt is read."""

    def step(self, last: int | None, left: int) -> Step:
        """Return a token and its score. `last` is the one before, None at first.

        At most `left` tokens will be asked for, this one among them.
        """

    def close(self) -> Drafting | None:
        """Leave in the context what `Context.kept` says."""


class Plain:
    """A decode for each token."""

    def __init__(self, context: Context, sampler: Sampler, scorer: Scorer | None) -> None:
        self._context, self._sampler, self._scorer = context, sampler, scorer

    def step(self, last: int | None, left: int) -> Step:
        """Decode `last` and sample."""
        context, scorer = self._context, self._scorer
        if last is not None:
            context.decode((last,))
            context.kept.tokens.append(last)
        token = self._sampler.sample(context)
        return token, (scorer.score(context, token) if scorer is not None else None)

    def close(self) -> None:
        """Nothing to tidy up."""


class Speculation:
    """A decode for several tokens, where a draft has them right.

    `Context.kept.tokens` are those that the memory surely holds. What was accepted and had to be taken back
    together with a wrong token, as a recurrent state cannot be cut, is `pending`: it is read again with the
    next draft, in one batch, and the checkpoint from before serves once more.
    """

    def __init__(
        self,
        context: Context,
        sampler: Sampler,
        scorer: Scorer | None,
        draft: Draft,
        prompt: Sequence[int],
        where: str,
    ) -> None:
        self._context, self._sampler, self._scorer = context, sampler, scorer
        self._rewinder = Rewinder(context, where)
        self._drafter = draft.start(context)
        self._pace = Pace(draft.most, self._drafter.cost, price())
        self._batch = Batch(min(self._rewinder.longest, _REREAD + draft.most + 1))
        self._text = list(prompt)
        self._pending: list[int] = []
        self._draft: list[int] = []  # in the memory, behind what is pending
        self._right = 0  # tokens of it that were accepted
        self._first = -1  # output of the token before the draft
        self._clears = context.clears
        self._decode = context.decodes
        self._draft_seconds = self._verify_seconds = self._save_seconds = self._restore_seconds = 0.0
        self._rounds = self._drafted = self._accepted = 0

    def step(self, last: int | None, left: int) -> Step:
        """Sample the next place of the draft, or begin another one."""
        context, scorer = self._context, self._scorer
        if last is not None:
            self._text.append(last)
            if self._goes_on(last):
                self._right += 1
                self._accepted += 1
            else:
                self._settle()
                self._pending.append(last)
                self._round(left)
        place = self._first + self._right if self._draft else -1
        token = self._sampler.sample(context, place)
        return token, (scorer.score(context, token, place) if scorer is not None else None)

    def _goes_on(self, last: int) -> bool:
        """Say whether the draft has foreseen `last`, and what came after it can still be read."""
        return (
            self._right < len(self._draft)
            and self._draft[self._right] == last
            and self._context.decodes == self._decode
        )

    def _round(self, left: int) -> None:
        """Read what is pending, and a draft behind it."""
        context, pending = self._context, self._pending
        draft = self._propose(left)
        if draft:
            start = time.perf_counter()
            if not self._rewinder.mark(len(context.kept.tokens)):
                draft = []
            self._save_seconds += time.perf_counter() - start
        if draft:
            start = time.perf_counter()
            batch = self._batch
            batch.clear()
            batch.extend(pending[:-1], output=False)
            self._first = batch.extend([pending[-1], *draft], output=True)[0]
            try:
                context.decode(batch)
            except DecodeError as error:
                if error.code != NO_ROOM:  # without the draft there may be
                    raise
            else:
                self._draft, self._right, self._decode = draft, 0, context.decodes
                self._verify_seconds += time.perf_counter() - start
                self._rounds += 1
                self._drafted += len(draft)
                return
        context.decode(pending)
        context.kept.tokens += pending
        self._pending = []

    def _propose(self, left: int) -> list[int]:
        pending = len(self._pending)
        if pending > _REREAD + 1:
            return []
        most = min(self._pace.ask(), left - 1, self._batch.capacity - pending)
        if most < 1:
            return []
        start = time.perf_counter()
        draft = list(self._drafter.propose(self._text, most))[:most]
        self._draft_seconds += time.perf_counter() - start
        return draft

    def _settle(self) -> None:
        """Take back what is wrong with the draft."""
        draft, right = self._draft, self._right
        if not draft:
            return
        kept = self._context.kept
        good = [*self._pending, *draft[:right]]
        self._draft, self._pending, self._right = [], [], 0
        held = len(good)
        if right < len(draft):
            start = time.perf_counter()
            before = len(kept.tokens)
            held = self._rewinder.back(before + held) - before
            self._restore_seconds += time.perf_counter() - start
        kept.tokens += good[:held]
        self._pending = good[held:]
        self._pace.told(len(draft), right, len(self._pending))

    def close(self) -> Drafting:
        """Take a draft back that is still there, and free what was needed for it."""
        context = self._context
        self._drafter.close()
        try:
            if not context.closed and context.clears == self._clears:
                self._settle()
        except ContextError:
            context.kept.tokens = []  # nobody knows what is there
        self._rewinder.close()
        self._batch.close()
        return Drafting(
            rounds=self._rounds,
            drafted=self._drafted,
            accepted=self._accepted,
            draft_seconds=self._draft_seconds,
            verify_seconds=self._verify_seconds,
            save_seconds=self._save_seconds,
            restore_seconds=self._restore_seconds,
            checkpoint_bytes=self._rewinder.nbytes,
        )

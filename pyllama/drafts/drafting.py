"""Drafts: guesses at the next tokens, which a model then checks all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..device import handles
from ..errors import UsageError
from ..native.loader import load

if TYPE_CHECKING:
    from ..context import Context

# What it takes to check one more token in the same batch, in steps of the model: a CPU computes for each one
# nearly what it does for a token alone, other devices wait for the weights all the same.
_PRICE_CPU, _PRICE_DEVICE = 0.5, 0.1
_FIRST = 4  # tokens of the first draft
_CREDIT = 4.0  # steps that drafts may lose before they have gained any, and the most that is kept of a gain
_ALLOWANCE = 0.02  # steps that each step without a draft gives back: so much may trying again cost


class Drafter(Protocol):
    """Guesses for one generation; made by `Draft.start`."""

    @property
    def cost(self) -> float:
        """What it takes to guess one token, as a part of one step of the model: 0 for next to nothing."""

    def propose(self, text: Sequence[int], most: int) -> Sequence[int]:
        """Return up to `most` tokens that may follow `text`, or none.

        `text` is the prompt and what was generated so far. Within a generation it only grows; do not change
        or keep it. A wrong guess costs time, never the right answer.
        """

    def close(self) -> None:
        """The generation is over."""


class Draft(Protocol):
    """What `stream` and `generate` take as `draft`: `PromptLookup`, `DraftModel`, `SelfDraft`, or yours."""

    @property
    def most(self) -> int:
        """Tokens of the longest draft."""

    def start(self, context: Context) -> Drafter:
        """Begin to guess for a generation in `context`. Raises UsageError when that cannot be."""


@dataclass(frozen=True)
class PromptLookup:
    """Guess that what followed the last words follows them again: for text that repeats what was there.

    Summaries, edits of code and answers out of a document gain; a story does not. It needs no second model.
    Raises UsageError for lengths out of range.
    """

    most: int = 16
    """Tokens of the longest draft."""
    longest: int = 4
    """How many of the last tokens are looked for, at most: the longest that is found counts."""
    shortest: int = 2
    """How many at least."""

    def __post_init__(self) -> None:
        check_most(self.most)
        if not 1 <= self.shortest <= self.longest <= 64:
            raise UsageError(
                f"shortest={self.shortest} and longest={self.longest} have to be 1 to 64, the one not above "
                "the other"
            )

    def start(self, context: Context) -> Lookup:
        """Begin with an empty index."""
        return Lookup(self.longest, self.shortest)


def check_most(most: int) -> None:
    """Raise UsageError for a length that no draft can have."""
    if not 1 <= most <= 512:
        raise UsageError(f"most={most} is no length of a draft: give 1 to 512 tokens")


class Lookup:
    """Where each run of `shortest` to `longest` tokens was seen last. A pure function of the text so far."""

    cost = 0.0

    def __init__(self, longest: int, shortest: int) -> None:
        self._sizes = range(longest, shortest - 1, -1)
        self._after: dict[tuple[int, ...], int] = {}  # a run, and where what followed it begins
        self._known = 0  # tokens whose runs are in there

    def propose(self, text: Sequence[int], most: int) -> list[int]:
        """Return what followed the longest run at the end of `text` when it was there before."""
        for end in range(self._known + 1, len(text)):
            for size in self._sizes:
                if size <= end:
                    self._after[tuple(text[end - size : end])] = end
        self._known = max(len(text) - 1, 0)
        for size in self._sizes:
            start = self._after.get(tuple(text[-size:])) if size <= len(text) else None
            if start is not None:
                found = list(text[start : start + most])
                period = len(text) - start  # past the end of the text the loop goes on
                while len(found) < most:
                    found.append(found[len(found) - period])
                return found
        return []

    def close(self) -> None:
        """Nothing to free."""


def price() -> float:
    """Return what one more token of a batch takes, as a part of a step, on the devices of this process."""
    raw = load().raw
    host = (raw.GGML_BACKEND_DEVICE_TYPE_CPU, raw.GGML_BACKEND_DEVICE_TYPE_ACCEL)
    on_host = all(raw.ggml_backend_dev_type(handle) in host for handle in handles())
    return _PRICE_CPU if on_host else _PRICE_DEVICE


class Pace:
    """How long the next draft may be: longer while they are right, none while they lose time.

    It counts in steps of the model: a token that was right saves one, a token that was checked costs a part
    of one, and so does guessing it. Drafts are tried as long as they have not lost more than they gained, but
    for a small allowance; so a text that cannot be guessed is at most a few per cent slower. No clock is
    read: the same text gets the same drafts.
    """

    def __init__(self, most: int, cost: float, price: float) -> None:
        self._most = most
        self._price = price
        self._cost = price + cost
        self._length = min(_FIRST, most)
        self._balance = _CREDIT

    def ask(self) -> int:
        """Return the length of the next draft; 0 for none."""
        if self._balance <= 0:
            self._balance += _ALLOWANCE
            return 0
        return self._length

    def told(self, drafted: int, right: int, reread: int) -> None:
        """Take note that `right` tokens of `drafted` were, and how many have to be read once more."""
        gain = right - drafted * self._cost - reread * self._price
        self._balance = min(self._balance + gain, _CREDIT)
        self._length = min(2 * self._length, self._most) if right == drafted else max(right + 1, 1)
        self._length = min(self._length, self._most)

"""Stop strings: where a text ends that arrives in pieces. Pure functions of text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .errors import UsageError


@dataclass(frozen=True)
class Matched:
    """What a piece of text gave."""

    text: str
    """What can be shown now: it can no longer become part of a stop string."""
    stop: str | None
    """The stop string that ended the text, if one did; it is not in `text`."""


class StopStrings:
    """Finds stop strings in a text that arrives in pieces, also across the borders of pieces.

    The one that is complete first ends the text; of several that end at the same character, the longest.
    So the outcome does not depend on where the borders are. No more is held back than could be the beginning
    of a stop string. Raises UsageError for an empty one.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        # The longest first: it is found first among those that end together.
        self._stops = sorted(set(stops), key=lambda stop: (-len(stop), stop))
        if "" in self._stops:
            raise UsageError("an empty stop string would end every text: leave it out")
        self._held = ""

    def feed(self, piece: str) -> Matched:
        """Take the next piece. After a stop string nothing more may be fed."""
        text = self._held + piece
        found = [(at + len(stop), -len(stop), stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            end, _, stop = min(found)
            self._held = ""
            return Matched(text[: end - len(stop)], stop)
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        shown, self._held = text[: len(text) - keep], text[len(text) - keep :]
        return Matched(shown, None)

    def finish(self) -> str:
        """Return what was held back: the text ended before a stop string was complete."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return how many of the last characters of `text` begin `stop`, all of it not counted."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0

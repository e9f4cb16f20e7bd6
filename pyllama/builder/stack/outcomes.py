"""The words for how a feature, or one place of it, fares on a tree."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Outcome = Literal[
    "not-applicable",
    "upstreamed",
    "clean",
    "offset",
    "merged",
    "partly-upstreamed",
    "target-moved",
    "conflict",
    "target-deleted",
    "blocked",
]

# From best to worst, each with the exit code of a report of which it is the worst word.
EXIT_CODES: dict[Outcome, int] = {
    "not-applicable": 0,
    "upstreamed": 0,
    "clean": 0,
    "offset": 0,
    "merged": 3,
    "partly-upstreamed": 4,
    "target-moved": 4,
    "conflict": 5,
    "target-deleted": 5,
    "blocked": 5,
}


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the worst of some outcomes; of none at all, the best."""
    order = tuple(EXIT_CODES)
    return max(outcomes, key=order.index, default=order[0])


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """Return 0 for nothing to do, 3 for look at it, 4 for refresh the hooks, 5 for something in the way."""
    return EXIT_CODES[worst(outcomes)]


def by_lines(offset: int) -> str:
    """Say how far hunks are from where they should be."""
    return f"by up to {offset} line{'s' * (offset > 1)}"

"""High water: the newest of a list of revisions on which each feature still applies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..stack.outcomes import Outcome
from .report import FeatureReport, Report, as_dict

GOOD: tuple[Outcome, ...] = ("clean", "offset", "merged")


@dataclass(frozen=True)
class HighWater:
    """How far up one feature goes; None where there is no such revision."""

    feature: str
    newest: str | None
    """The newest revision on which it applies."""
    outcome: Outcome | None
    """How it does there."""
    broken_by: str | None
    """The first revision after that one on which it does not."""
    word: Outcome | None
    """What it is there."""
    upstreamed_in: str | None
    """The first revision after that one that has it itself."""


@dataclass(frozen=True)
class Search:
    """What was found, and the reports that it took, newest first."""

    features: tuple[HighWater, ...]
    tried: tuple[Report, ...]


def search(revisions: Sequence[str], try_one: Callable[[str], Report]) -> Search:
    """Try `revisions`, oldest first in the list, from the newest down until every feature is settled.

    What breaks on one revision may work again on a later one, so none is skipped.
    """
    tried: list[Report] = []
    for name in reversed(revisions):
        tried.append(try_one(name))
        names = [row.feature for row in tried[0].features]
        if all(any(_settled(report[feature]) for report in tried) for feature in names):
            break
    return Search(tuple(_high_water(row.feature, tried) for row in tried[0].features), tuple(tried))


def _settled(row: FeatureReport) -> bool:
    # without hunks, it is not the revision that decides
    return row.outcome in GOOD or (not row.hunks and row.outcome in ("upstreamed", "not-applicable"))


def _high_water(feature: str, tried: Sequence[Report]) -> HighWater:
    good = next((report for report in tried if report[feature].outcome in GOOD), None)
    newer = list(reversed(tried[: tried.index(good)] if good is not None else tried))
    broken = next(
        (r for r in newer if r[feature].outcome not in (*GOOD, "upstreamed", "not-applicable")), None
    )
    upstreamed = next((r for r in newer if r[feature].outcome == "upstreamed"), None)
    return HighWater(
        feature,
        good.onto if good else None,
        good[feature].outcome if good else None,
        broken.onto if broken else None,
        broken[feature].outcome if broken else None,
        upstreamed.onto if upstreamed else None,
    )


def document(found: Search) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "pin": found.tried[0].pin,
        "bisect": [asdict(row) for row in found.features],
        "tried": [as_dict(report) for report in found.tried],
    }

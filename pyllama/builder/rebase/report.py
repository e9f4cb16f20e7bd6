"""What a rebase found, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..stack.outcomes import Outcome, exit_code


@dataclass(frozen=True)
class Place:
    """One hunk of a hook, or one file that a feature brings (hunk 0)."""

    hook: str
    file: str
    hunk: int
    outcome: Outcome
    detail: str = ""
    line: int | None = None
    """Where it lands, or where upstream has it, as a line of the revision's own file, counted from 1."""
    offset: int | None = None
    """How many lines from where git looks first it landed; None when it did not land as it is."""
    moved_to: str | None = None
    """The file in which its code is now."""


@dataclass(frozen=True)
class Loss:
    """A line that upstream added since the pin and that a hook would take out again."""

    hook: str
    file: str
    hunk: int
    line: int
    """Its number in the new tree's file."""
    text: str


@dataclass(frozen=True)
class FeatureReport:
    """How one feature fares."""

    feature: str
    outcome: Outcome
    detail: str
    carried: bool
    """Whether the rebased tree has it, so that what requires it could go on."""
    hunks: tuple[Place, ...] = ()
    would_delete: tuple[Loss, ...] = ()


@dataclass(frozen=True)
class Pair:
    """One feature's commit on the pin and rebased: `=` the same diff, `!` another one, `<` gone, `>` new."""

    feature: str
    mark: str
    old: str | None
    new: str | None
    diff: str


@dataclass(frozen=True)
class Report:
    """How a stack fares on another revision."""

    onto: str
    pin: str
    tree: str
    """git's id of the revision's tree."""
    rebased: str
    """git's id of the tree with every feature that goes on."""
    features: tuple[FeatureReport, ...]
    range_diff: tuple[Pair, ...]
    range_diff_text: str
    seconds: float

    @property
    def exit_code(self) -> int:
        """The exit code that the worst outcome gives."""
        return exit_code(row.outcome for row in self.features)

    def __getitem__(self, feature: str) -> FeatureReport:
        return next(row for row in self.features if row.feature == feature)


def document(reports: Sequence[Report]) -> dict[str, Any]:
    """Return what `--json` prints: one report, or a list of them under `reports`."""
    rows = [as_dict(report) for report in reports]
    return rows[0] if len(rows) == 1 else {"reports": rows}


def as_dict(report: Report) -> dict[str, Any]:
    """Return a report as JSON has it."""
    row = asdict(report)
    del row["range_diff_text"]
    return {**row, "seconds": round(report.seconds, 3)}

"""Reports for people: on a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from .bisect import Search
from .report import FeatureReport, Loss, Place, Report

_AS_IT_IS = ("clean", "offset")


def as_text(report: Report, range_diff: bool) -> str:
    """Return a report for a terminal."""
    lines = [_headline(report)]
    width = max((len(row.feature) for row in report.features), default=0)
    for row in report.features:
        lines.append(f"{row.feature:<{width}}  {row.outcome:<17} {row.detail}".rstrip())
        lines += [f"    {_place(place)}" for place in _told(row)]
        lines += [f"    would delete {_loss(loss)}" for loss in row.would_delete]
    if range_diff and report.range_diff_text:
        lines += ["", report.range_diff_text.rstrip("\n")]
    return "\n".join(lines) + "\n"


def as_markdown(reports: Sequence[Report]) -> str:
    """Return a table, a feature per row and a revision per column, and what is to be known of each below."""
    revisions = [f"{_plain(report.onto)} ({report.seconds:.1f} s)" for report in reports]
    lines = [
        f"The stack of pin {reports[0].pin}, rebased:",
        "",
        *_table(["feature", *revisions], _rows(reports)),
    ]
    for report in reports:
        for row in report.features:
            lines += _section(report, row)
        changed = [pair for pair in report.range_diff if pair.mark == "!"]
        if changed:
            body = "".join(f"{pair.feature}\n{pair.diff}" for pair in changed).rstrip("\n")
            lines += ["", f"### What changes in the hooks on {_plain(report.onto)}", "", *_fenced(body)]
    return "\n".join(lines) + "\n"


def bisect_text(found: Search) -> str:
    """Return the high-water mark of each feature for a terminal."""
    lines = [f"tried {', '.join(report.onto for report in found.tried)}"]
    width = max((len(row.feature) for row in found.features), default=0)
    for row in found.features:
        best = f"{row.newest} ({row.outcome})" if row.newest is not None else "none"
        broken = f", broken by {row.broken_by} ({row.word})" if row.broken_by is not None else ""
        taken = f", upstreamed in {row.upstreamed_in}" if row.upstreamed_in is not None else ""
        lines.append(f"{row.feature:<{width}}  newest: {best}{broken}{taken}")
    return "\n".join(lines) + "\n"


def bisect_markdown(found: Search) -> str:
    """Return the high-water mark of each feature as a table."""
    head = ["feature", "newest on which it applies", "broken by", "upstreamed in"]
    rows = [
        [
            row.feature,
            f"{_plain(row.newest)} ({row.outcome})" if row.newest is not None else "none",
            f"{_plain(row.broken_by)} ({row.word})" if row.broken_by is not None else "",
            _plain(row.upstreamed_in or ""),
        ]
        for row in found.features
    ]
    return "\n".join(_table(head, rows)) + "\n"


def _headline(report: Report) -> str:
    trees = f"tree {report.tree[:12]}, rebased {report.rebased[:12]}"
    return f"pin {report.pin} onto {report.onto}: {trees}, {report.seconds:.1f} s"


def _told(row: FeatureReport) -> list[Place]:
    """Return the places that are worth a word."""
    return [place for place in row.hunks if place.outcome not in _AS_IT_IS or place.detail]


def _place(place: Place) -> str:
    hunk = f", hunk {place.hunk}" if place.hunk else ""
    line = f":{place.line}" if place.line is not None else ""
    detail = f": {place.detail}" if place.detail else ""
    return f"{place.hook}, {place.file}{line}{hunk}: {place.outcome}{detail}"


def _loss(loss: Loss) -> str:
    return f"{loss.file}:{loss.line}: {loss.text.strip()}"


def _rows(reports: Sequence[Report]) -> list[list[str]]:
    return [
        [row.feature, *(report[row.feature].outcome for report in reports)] for row in reports[0].features
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def _section(report: Report, row: FeatureReport) -> list[str]:
    if not _told(row) and not row.would_delete:
        return []
    lines = ["", f"### {row.feature} on {_plain(report.onto)}: {row.outcome}", "", f"{row.detail}", ""]
    if _told(row):
        lines += [f"- `{_code(place.file)}`{_at(place)}" for place in _told(row)]
    if row.would_delete:
        body = "\n".join(f"{loss.file}:{loss.line}: {loss.text}" for loss in row.would_delete)
        lines += ["", "Lines of upstream's that it would delete:", "", *_fenced(body)]
    return lines


def _at(place: Place) -> str:
    line = f", line {place.line}" if place.line is not None else ""
    hunk = f", hunk {place.hunk}" if place.hunk else ""
    detail = f" ({_plain(place.detail)})" if place.detail else ""
    return f"{line}, `{_code(place.hook)}`{hunk}: **{place.outcome}**{detail}"


def _fenced(body: str) -> list[str]:
    fence = "```"
    while fence in body:
        fence += "`"
    return [f"{fence}text", body, fence]


def _plain(text: str) -> str:
    for sign in ("\\", "|", "*", "_", "`", "<", "["):
        text = text.replace(sign, f"\\{sign}")
    return text


def _code(text: str) -> str:
    return text.replace("`", "'")

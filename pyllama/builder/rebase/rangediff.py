"""`git range-diff` between the stack on its pin and the same stack rebased."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..git import Git
from ..stack.commit import Commit
from .report import Pair

_ROW = re.compile(r"\s*(?:\d+|-):\s+([0-9a-f]+|-+) ([=!<>])\s+(?:\d+|-):\s+([0-9a-f]+|-+)(?: (.*))?")
_ALIKE = 90
"""How much of a diff may be another one, in percent, before the two are no pair."""


def range_diff(git: Git, old: Sequence[Commit], new: Sequence[Commit]) -> tuple[tuple[Pair, ...], str]:
    """Compare two stacks of commits, the pristine one first in each; also return git's own text."""
    if len(old) == 1 or len(new) == 1:  # git refuses an empty range
        gone = tuple(Pair(commit.feature or "", "<", commit.id, None, "") for commit in old[1:])
        return gone, "".join(f"{n}: {pair.old} < -: {pair.feature}\n" for n, pair in enumerate(gone, 1))
    text = git.run(
        *("-c", "core.abbrev=40", "range-diff", "--no-color", f"--creation-factor={_ALIKE}"),
        *(f"{old[0].id}..{old[-1].id}", f"{new[0].id}..{new[-1].id}"),
    ).out
    by_id = {commit.id: commit.feature or "" for commit in (*old, *new)}
    found: list[Pair] = []
    for line in text.splitlines():
        row = _ROW.fullmatch(line)
        if row is None:
            found[-1] = _with_line(found[-1], line.removeprefix("    "))
            continue
        ids = [None if name.startswith("-") else name for name in (row[1], row[3])]
        feature = by_id[next(name for name in ids if name is not None)]
        found.append(Pair(feature, row[2], ids[0], ids[1], ""))
    return tuple(found), text


def _with_line(pair: Pair, line: str) -> Pair:
    return Pair(pair.feature, pair.mark, pair.old, pair.new, f"{pair.diff}{line}\n")

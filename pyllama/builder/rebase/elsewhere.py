"""Code that upstream moved: the place, in the same file or another one, where a hunk's lines are now."""

from __future__ import annotations

from collections.abc import Sequence

from .layout import Spot
from .text import Piece
from .tokens import by_line, runs, significant
from .upstream import Upstream

_HERE, _ELSEWHERE = 2, 3
"""Lines that say something, at least, by which code is known again, in the same file and in another one."""


def search(upstream: Upstream, path: str, spot: Spot) -> tuple[str, int] | None:
    """Return file and line at which a hunk's code is now, or None unless it is exactly one other file.

    A file that had the same code at the pin already is not where it went to.
    """
    for context in (3, 2, 1):
        lines, _ = spot.piece.core(context)
        telling = _telling(lines, path)
        if len(telling) < _ELSEWHERE:
            return None
        block = by_line("".join(lines), path)
        found: list[tuple[str, int]] = []
        for name in upstream.files_with(telling, path):
            old, new = upstream.old_text(name), upstream.new_text(name)
            if new is None or (old is not None and runs(block, by_line(old.text, path))):
                continue
            found += [(name, at + 1) for at in runs(block, by_line(new.text, path))[:1]]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def region(piece: Piece, lines: Sequence[str], path: str) -> tuple[int, int] | None:
    """Return begin and end of the one place of a file that a hunk is about, when the context changed."""
    for context in (2, 1):
        core, above = piece.core(context)
        if len(_telling(core, path)) < _HERE:
            return None
        places = [at for at in range(len(lines) - len(core) + 1) if tuple(lines[at : at + len(core)]) == core]
        if len(places) > 1:
            return None
        if places:
            first = max(places[0] - above, 0)
            return first, min(first + len(piece.before), len(lines))
    return None


def _telling(lines: Sequence[str], path: str) -> list[str]:
    rows = zip(lines, by_line("".join(lines), path), strict=False)
    return [line.strip() for line, tokens in rows if significant(tokens)]

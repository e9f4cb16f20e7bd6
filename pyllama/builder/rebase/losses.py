"""The lines that upstream added since the pin and that a hook would take out again."""

from __future__ import annotations

from .layout import Laid, Spot
from .report import Loss
from .text import Text
from .tokens import by_line, significant
from .upstream import Upstream


def lost(
    upstream: Upstream, laid: Laid, path: str, spot: Spot | None, before: Text, after: Text
) -> list[Loss]:
    """Return what is in a file of the new tree `before` a hunk, and not `after` it; no `spot` is all of them.

    What the hook takes out anyway is no loss where upstream only moved it.
    """
    own = laid.change.path if path == upstream.place(laid.change.path) else path
    added = upstream.changes(own).added
    moved = set(spot.piece.removed) if spot is not None and left(upstream, laid, spot) else set()
    return [
        Loss(laid.hook.name, path, spot.key[3] if spot is not None else 0, number, line.rstrip("\n"))
        for number, line in before.lost_to(after)
        if number in added and line not in moved
    ]


def left(upstream: Upstream, laid: Laid, spot: Spot) -> bool:
    """Say whether upstream left nothing of a hunk's code where it was: it is gone or somewhere else."""
    tokens = by_line("".join(spot.piece.before), laid.change.path)
    here = zip(laid.base.origin[spot.at : spot.at + len(spot.piece.before)], tokens, strict=False)
    changes = upstream.changes(laid.change.path)
    return not any(changes.keeps(number) for number, said in here if number and significant(said))

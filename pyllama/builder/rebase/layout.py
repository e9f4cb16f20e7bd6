"""The stack as it lies on the pin it was made for: every hunk with its place in the file below it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import PatchError
from ..stack.features import Feature
from ..stack.hooks import Change, Hook
from .text import Piece, Text
from .upstream import Upstream

Key = tuple[str, str, str, int]
"""Feature, hook, file and number of a hunk."""


@dataclass(frozen=True)
class Spot:
    """One hunk, and the index in the file below the hook at which it begins there."""

    key: Key
    piece: Piece
    at: int


@dataclass(frozen=True)
class Laid:
    """What a hook does to one file, and that file as it is below the hook."""

    feature: Feature
    hook: Hook
    change: Change
    base: Text
    spots: tuple[Spot, ...]


def lay_out(features: Sequence[Feature], pin: str, upstream: Upstream) -> dict[str, tuple[Laid, ...]]:
    """Return what each feature does at the pin, by its name."""
    files: dict[str, Text | None] = {}
    found: dict[str, tuple[Laid, ...]] = {}
    for feature in features:
        rows: list[Laid] = []
        for file in feature.files_at(pin):
            files[file.path] = Text.new(Text.of(file.data).lines)
        for hook in feature.hooks_at(pin):
            for change in hook.changes:
                path = change.path
                base = files[path] if path in files else upstream.old_text(path)
                laid, after = _lay(feature, hook, change, base or Text((), ()))
                files[path] = None if change.kind == "delete" else after
                rows.append(laid)
        found[feature.name] = tuple(rows)
    return found


def with_spots(base: Text, spots: Iterable[Spot]) -> Text:
    """Return the file below a hook with some of its hunks."""
    for spot in sorted(spots, key=lambda spot: spot.at, reverse=True):
        base = base.with_piece(spot.piece, spot.at)
    return base


def _lay(feature: Feature, hook: Hook, change: Change, base: Text) -> tuple[Laid, Text]:
    spots: list[Spot] = []
    after, taken = base, [False] * len(base.lines)
    for number, hunk in enumerate(change.hunks, 1):
        piece = Piece.of(hunk)
        at = piece.locate(after.lines, 0, taken)
        if at is None:
            raise PatchError(
                f"feature {feature.name}, hook {hook.name} does not fit at {change.path}, hunk {number}"
            )
        growth = sum(spot.piece.growth for spot in spots)  # hunks come in the order of their places
        spots.append(Spot((feature.name, hook.name, change.path, number), piece, at - growth))
        taken[at : at + len(piece.before)] = [True] * len(piece.after)
        after = after.with_piece(piece, at)
    return Laid(feature, hook, change, base, tuple(spots)), after

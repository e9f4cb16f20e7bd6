"""How the stack stands at a pin, now: found out in a scratch index, nothing is touched.

No hook is ever asked whether it reverses: in a stack, a later feature may have rewritten the
lines of an earlier one. The stack is applied from the bottom instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import PatchError
from ..tree import TreeStore
from .compose import Composer, composing
from .features import Feature, Stack
from .outcomes import Outcome, by_lines


@dataclass(frozen=True)
class Row:
    """One feature at one pin."""

    name: str
    title: str
    outcome: Outcome
    detail: str
    """Why, when the outcome is not clean."""
    hooks: tuple[str, ...]
    files: tuple[str, ...]
    """New files that the feature brings."""
    touched: tuple[str, ...]
    """Files that its hooks change."""
    added: int
    """Lines that its hooks add."""
    removed: int
    """Lines that its hooks remove."""
    upstream_status: str
    requires: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether nothing stands in the way of a build with this feature."""
        return self.outcome not in ("conflict", "blocked")


def status(
    stack: Stack,
    pin: str,
    tree_id: str,
    store: TreeStore,
    features: Sequence[Feature] | None = None,
) -> tuple[Row, ...]:
    """Say for each feature (of `features`, or all) whether it applies to the tree of `pin`.

    A feature that does not apply is left out and the next ones are tried without it; those
    that require it are blocked.
    """
    rows: list[Row] = []
    out: set[str] = set()
    with composing(store, tree_id, pin, keep=False) as composer:
        for feature in stack.features if features is None else features:
            outcome, detail = _try(composer, feature, pin, out)
            if outcome in ("conflict", "blocked", "not-applicable"):
                out.add(feature.name)
            rows.append(_row(feature, pin, outcome, detail))
    return tuple(rows)


def _try(composer: Composer, feature: Feature, pin: str, out: set[str]) -> tuple[Outcome, str]:
    entry = feature.at(pin)
    if entry.kind == "not-applicable":
        return "not-applicable", entry.reason
    missing = [name for name in feature.requires if name in out]
    if missing:
        return "blocked", f"it requires {', '.join(missing)}"
    if entry.kind == "upstream":
        return "upstreamed", entry.reason
    before = composer.tree
    try:
        step = composer.add(feature)
    except PatchError as error:
        composer.reset(before)
        return "conflict", str(error)
    if step.offset:
        return "offset", by_lines(step.offset)
    return "clean", ""


def _row(feature: Feature, pin: str, outcome: Outcome, detail: str) -> Row:
    hooks = feature.hooks_at(pin)
    changes = [change for hook in hooks for change in hook.changes]
    return Row(
        name=feature.name,
        title=feature.title,
        outcome=outcome,
        detail=detail,
        hooks=tuple(hook.name for hook in hooks),
        files=tuple(file.path for file in feature.files_at(pin)),
        touched=tuple(dict.fromkeys(change.path for change in changes)),
        added=sum(change.added for change in changes),
        removed=sum(change.removed for change in changes),
        upstream_status=feature.upstream_status,
        requires=feature.requires,
    )

"""The lock of patched trees, `trees.toml`: what every set of features that we ship must come out as.

One string to compare on every machine: the same bytes applied to the same tree (the key says so)
must give the same tree id, whatever git and whatever platform did it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from ...errors import PatchError
from ..tree import TreeStore
from .compose import composing
from .features import Feature, Stack, select
from .key import key as stack_key

NAME = "trees.toml"
_HEAD = """\
# The lock of patched trees: the git tree id that each set of features gives at each pin. Written by
# `pyllama patches lock`; `apply` compares. `key` says which patches it was made of.
"""


@dataclass(frozen=True)
class LockedTree:
    """One row: what `features`, in this order, make of a pin's tree."""

    pin: str
    features: tuple[str, ...]
    key: str
    tree: str


def load(folder: Path) -> tuple[LockedTree, ...]:
    """Read the lock of a series; none when it has no lock. Raises PatchError when it is damaged."""
    path = folder / NAME
    if not path.exists():
        return ()
    try:
        rows = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap().get("tree", [])
        return tuple(_row(row) for row in rows)
    except (OSError, UnicodeDecodeError, TOMLKitError, KeyError, TypeError, ValueError) as error:
        raise PatchError(f"{path} is no lock of trees ({error}): run `pyllama patches lock`") from error


def _row(row: Mapping[str, Any]) -> LockedTree:
    found = LockedTree(row["pin"], tuple(row["features"]), row["key"], row["tree"])
    if not all(isinstance(text, str) for text in (found.pin, *found.features, found.key, found.tree)):
        raise TypeError("a row has something else than texts")
    return found


def dump(rows: Sequence[LockedTree]) -> str:
    """Return the text of a lock."""
    texts = [_HEAD]
    for row in rows:
        names = ", ".join(f'"{name}"' for name in row.features)
        texts.append(
            f'\n[[tree]]\npin = "{row.pin}"\nfeatures = [{names}]\nkey = "{row.key}"\ntree = "{row.tree}"\n'
        )
    return "".join(texts)


def shipped(stack: Stack, pin: str, only: Sequence[str] | None = None) -> Iterator[tuple[Feature, ...]]:
    """Yield the sets of features that are shipped at a pin: each with what it requires, and all.

    With `only`, the features of one series: the sets that hold one of these and none of a later series.
    A set that makes nothing of the tree is left out.
    """
    if only is not None:
        last = max((place for place, name in enumerate(stack.names) if name in only), default=-1)
        stack = Stack(stack.features[: last + 1])
    every = select(stack, pin, "all")
    seen = set()
    for chosen in (*(select(stack, pin, [feature.name]) for feature in every), every):
        names = tuple(feature.name for feature in chosen)
        counts = any(feature.at(pin).kind == "hooks" for feature in chosen)
        if names in seen or not counts or (only is not None and not set(names) & set(only)):
            continue
        seen.add(names)
        yield chosen


def compare(rows: Sequence[LockedTree], pin: str, base: str, features: Sequence[Feature], tree: str) -> None:
    """Raise PatchError when the lock knows these patches and says that they give another tree."""
    key = stack_key(base, features, pin)
    for row in rows:
        if row.key == key and row.tree != tree:
            raise PatchError(
                f"the features {', '.join(row.features)} at pin {pin} give tree {tree} here, but {row.tree} "
                f"is locked in {NAME}, of the same patches: look at what `git --version` says, and report it"
            )


def compute(
    stack: Stack, pin: str, base: str, store: TreeStore, only: Sequence[str] | None = None
) -> Iterator[LockedTree]:
    """Compose every set that is shipped at a pin and yield its row. Raises PatchError where one fails."""
    for chosen in shipped(stack, pin, only):
        yield of(chosen, pin, base, store)


def of(features: Sequence[Feature], pin: str, base: str, store: TreeStore) -> LockedTree:
    """Compose one set and return its row. Raises PatchError when it does not apply."""
    with composing(store, base, pin, keep=False) as composer:
        for feature in features:
            composer.add(feature)
        names = tuple(feature.name for feature in features)
        return LockedTree(pin, names, stack_key(base, features, pin), composer.tree)

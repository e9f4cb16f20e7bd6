"""A hook that does not apply, merged: three sides of each file that it changes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from ...errors import PatchError
from ..git import Git
from ..stack.compose import composing
from ..stack.diffs import raw
from ..stack.features import Feature, PinEntry
from ..stack.hooks import Change, Hook
from ..tree import TreeStore


@dataclass(frozen=True)
class Side:
    """A change with the file before and after it, at the pin for which the hook was written."""

    change: Change
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True)
class Merged:
    """What became of one file: its path now, its content (None: it is gone), and what needs a hand."""

    path: str
    data: bytes | None
    trouble: str = ""


def sides(
    below: Sequence[Feature], feature: Feature, hook: Hook, pin: str, base: str, store: TreeStore
) -> tuple[Side, ...]:
    """Return both sides of a hook at `pin`, its own: with the features below and its earlier hooks."""
    names = feature.at(pin).hooks
    earlier = names[: names.index(hook.name)]
    entry = MappingProxyType({pin: PinEntry("hooks", earlier)})
    with composing(store, base, pin, keep=False) as composer:
        for other in below:
            composer.add(other)
        if earlier or feature.files:
            composer.add(replace(feature, pins=entry))
        before = composer.tree
        one = MappingProxyType({pin: PinEntry("hooks", (hook.name,))})
        composer.add(replace(feature, pins=one, files=()))
        return tuple(
            Side(
                change,
                _blob(composer.git, before, change.path),
                _blob(composer.git, composer.tree, change.path),
            )
            for change in hook.changes
        )


def _blob(git: Git, tree: str, path: str) -> bytes | None:
    done = git.run("cat-file", "blob", f"{tree}:{path}", check=False)
    return raw(done.out) if done.code == 0 else None


def renamed(store: TreeStore, before: str, after: str) -> dict[str, str]:
    """Return the files that upstream renamed between two trees: old path to new."""
    done = store.repo.run("diff-tree", "-r", "-M", "-z", "--diff-filter=R", before, after)
    parts = done.out.split("\0")
    return {parts[n + 1]: parts[n + 2] for n in range(0, len(parts) - 2, 3)}


def merge(side: Side, ours: Path, moved: dict[str, str], labels: tuple[str, str, str]) -> Merged:
    """Merge one side into the work tree `ours`; nothing is written."""
    path = side.change.path
    if side.change.kind != "create" and not (ours / path).is_file() and path in moved:
        path = moved[path]
    there = ours / path
    held = there.read_bytes() if there.is_file() else None
    if side.change.kind == "create":
        if held is None or held == side.after:
            return Merged(path, side.after)
        return _three(path, b"", held, side.after or b"", labels)
    if held is None:
        return Merged(path, None, f"{path} is gone: make the change where its code is now")
    if side.after is None:
        same = held == side.before
        return Merged(
            path, None if same else held, "" if same else f"{path} was changed, and the hook removes it"
        )
    return _three(path, side.before or b"", held, side.after, labels)


def _three(path: str, base: bytes, ours: bytes, theirs: bytes, labels: tuple[str, str, str]) -> Merged:
    with tempfile.TemporaryDirectory(prefix="pyllama-merge-") as folder:
        names = []
        for name, data in (("ours", ours), ("base", base), ("theirs", theirs)):
            place = Path(folder) / name
            place.write_bytes(data)
            names.append(str(place))
        options = [word for label in labels for word in ("-L", label)]
        done = Git(Path(folder) / "none").run("merge-file", "-p", "--diff3", *options, *names, check=False)
    if done.code > 127:
        raise PatchError(f"{path} can't be merged: {done.err.strip()}")
    return Merged(path, raw(done.out), f"{path} has conflicts" if done.code else "")

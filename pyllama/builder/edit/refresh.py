"""Turn a session's tree back into a feature's folder, without noise.

A hook whose changes are as they were stays byte for byte; new files go to `files/`; what changes in
upstream's files goes to the hook that changed that file before, or else to the pin's first one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from ...errors import PatchError
from ..git import Git
from ..pins import Pin
from ..progress import Reporter
from ..project import Project
from ..stack import series
from ..stack.commit import commit_stack
from ..stack.compose import composing
from ..stack.diffs import diff, raw
from ..stack.features import Feature, PinEntry
from ..stack.hooks import Hook, parse
from ..tree import TreeStore
from . import replacing, session
from .opening import below, markers
from .session import Session

_PLAIN = ("100644", "100755")


@dataclass(frozen=True)
class Row:
    """One path that differs from the tree with the features below."""

    path: str
    status: str
    old_mode: str
    mode: str
    blob: str


@dataclass(frozen=True)
class Outcome:
    """What a refresh changed, below the feature's folder; nothing at all when the tree is as it was."""

    feature: str
    pin: str
    written: tuple[str, ...]
    removed: tuple[str, ...]
    other_pins: tuple[str, ...]
    """Other pins that changed files/ serve too."""
    tree: str


@dataclass(frozen=True)
class _Plan:
    """A feature's folder as it is to be."""

    hooks: Mapping[str, bytes]
    """Hooks that change or are new."""
    entry: tuple[str, ...]
    files: Mapping[str, tuple[str, bytes]]
    """Every new file: its mode and bytes."""


def refresh(project: Project, folder: Path, reporter: Reporter) -> Outcome:
    """Write the session's tree into the patches. Raises PatchError, and then nothing has changed."""
    open_now = session.load(folder)
    feature, pin = project.stack[open_now.feature], project.pin(open_now.pin)
    with session.locked(project.paths, feature.name):
        store = project.store_with(pin, reporter)
        _check(open_now, project, feature, pin, store)
        tree = _snapshot(open_now)
        rows = _rows(open_now.git, open_now.below, tree)
        for path, line in markers(open_now.tree, [row.path for row in rows if row.status != "D"]):
            raise PatchError(f"{path}, line {line}, has a conflict marker: resolve it first")
        own = series.load_feature(feature.folder)
        if _composes(project, own, pin, store) == tree and not _drifted(open_now, own, tree):
            return Outcome(feature.name, pin.name, (), (), (), tree)
        plan = _plan(open_now, project, own, rows, tree, store)
        return _write(open_now, project, own, pin, plan, tree, store)


def _check(open_now: Session, project: Project, feature: Feature, pin: Pin, store: TreeStore) -> None:
    if open_now.stopped is not None:
        raise PatchError(
            f"a hook of {feature.name} has not been resolved: run `pyllama patches edit --continue`"
        )
    if not open_now.ready:
        raise PatchError(f"{feature.name} is not applied yet: run `pyllama patches edit --continue`")
    commits = commit_stack(pin.name, pin.tree, below(project, feature, pin), store)
    if commits[-1].tree != open_now.below:
        raise PatchError(
            f"the features below {feature.name} changed since it was opened: keep {open_now.tree} elsewhere, "
            "run edit --abort, and open it again"
        )


def _snapshot(open_now: Session) -> str:
    """Return the tree of the work tree as it is, committed or not, what upstream ignores left out."""
    with tempfile.TemporaryDirectory(prefix="pyllama-index-") as scratch:
        index = Path(scratch) / "index"
        shutil.copy2(open_now.tree / ".git/index", index)
        git = open_now.git.with_index(index, open_now.tree)
        git.run("add", "-A", ".")
        return git.run("write-tree").out.strip()


def _rows(git: Git, before: str, after: str) -> list[Row]:
    parts = git.run("diff-tree", "-r", "-z", "--no-renames", before, after).out.split("\0")
    rows = []
    for meta, path in zip(parts[::2], parts[1::2], strict=False):
        old_mode, mode, _, blob, status = meta.lstrip(":").split()
        row = Row(path, status, old_mode, mode, blob)
        if status == "T" or (status != "D" and mode not in _PLAIN):
            raise PatchError(
                f"{path} is a link or submodule now, which a feature can't carry: put a file there"
            )
        if status == "M" and mode != old_mode:
            raise PatchError(f"the mode of {path} changed, which a hook can't carry: set it back")
        rows.append(row)
    return rows


def _composes(project: Project, own: Feature, pin: Pin, store: TreeStore) -> str | None:
    """Return the tree that the feature's folder gives at a pin that it names now."""
    if own.at(pin.name).kind != "hooks":
        return None
    with composing(store, pin.tree, pin.name, keep=False) as composer:
        for other in below(project, project.stack[own.name], pin):
            composer.add(other)
        if own.files or own.at(pin.name).hooks:
            try:
                composer.add(own)
            except PatchError:
                return None
        return composer.tree


def _plan(
    open_now: Session, project: Project, own: Feature, rows: Sequence[Row], tree: str, store: TreeStore
) -> _Plan:
    git = open_now.git
    names = own.at(open_now.source).hooks
    created = {c.path for name in names for c in own.hooks[name].changes if c.kind == "create"}
    files = {
        row.path: (row.mode, raw(git.run("cat-file", "blob", row.blob).out))
        for row in rows
        if row.status == "A" and row.path not in created
    }
    home: dict[str, str] = {}
    for name in reversed(names):
        home.update({change.path: name for change in own.hooks[name].changes})
    main = names[0] if names else f"hooks/{open_now.pin}.patch"
    paths: dict[str, list[str]] = {name: [] for name in names}
    for row in rows:
        if row.path not in files:
            paths.setdefault(home.get(row.path, main), []).append(row.path)
    hooks: dict[str, bytes] = {}
    entry: list[str] = []
    for name, touched in paths.items():
        if not touched:
            continue
        held = own.hooks.get(name)
        data = diff(git, open_now.below, tree, touched)
        fresh = parse(name, data, f"feature {own.name}, {name}")
        if held is not None and held.same_as(fresh) and not _stale(open_now, own, held, fresh):
            entry.append(name)
            continue
        new_name = _name(open_now, project, own, name, data, store, len(names))
        lead = held.lead if held is not None else b""
        hooks[new_name] = lead + data
        entry.append(new_name)
    return _Plan(hooks, tuple(entry), files)


def _drifted(open_now: Session, own: Feature, tree: str) -> bool:
    """Say whether git writes a hook otherwise now: features below changed the same files since."""
    for name in own.at(open_now.pin).hooks:
        held = own.hooks[name]
        paths = [change.path for change in held.changes]
        fresh = parse(name, diff(open_now.git, open_now.below, tree, paths), f"feature {own.name}, {name}")
        if held.same_as(fresh) and _stale(open_now, own, held, fresh):
            return True
    return False


def _stale(open_now: Session, own: Feature, held: Hook, fresh: Hook) -> bool:
    """Say whether a hook of this pin alone, as git wrote it, names other blobs or lines than git does now."""
    shared = any(held.name in entry.hooks for pin, entry in own.pins.items() if pin != open_now.pin)
    return not shared and b"\nindex " in held.data and held.data.removeprefix(held.lead) != fresh.data


def _name(
    open_now: Session, project: Project, own: Feature, name: str, data: bytes, store: TreeStore, count: int
) -> str:
    """Return the file for a changed hook: its own, unless another pin needs that as it is."""
    others = [pin for pin, entry in own.pins.items() if name in entry.hooks and pin != open_now.pin]
    if all(_fits(project, own, name, data, pin, store) for pin in others) and (
        open_now.pin in own.pins or not others
    ):
        return name
    stem = Path(name).stem
    return f"hooks/{open_now.pin}.patch" if count <= 1 else f"hooks/{open_now.pin}-{stem}.patch"


def _fits(project: Project, own: Feature, name: str, data: bytes, pin_name: str, store: TreeStore) -> bool:
    """Say whether a changed hook still applies at another pin that uses it; not when that can't be tried."""
    pin = next((pin for pin in project.lock.pins if pin.name == pin_name), None)
    if pin is None or pin.tree not in store:
        return False
    hook = parse(name, data, f"feature {own.name}, {name}")
    changed = Feature(**{**own.__dict__, "hooks": {**own.hooks, name: hook}})
    try:
        with composing(store, pin.tree, pin.name, keep=False) as composer:
            for other in below(project, project.stack[own.name], pin):
                composer.add(other)
            composer.add(changed)
    except PatchError:
        return False
    return True


def _write(
    open_now: Session, project: Project, own: Feature, pin: Pin, plan: _Plan, tree: str, store: TreeStore
) -> Outcome:
    written = [name for name, data in plan.hooks.items() if _bytes(own.folder / name) != data]
    held = {file.path: (file.mode, file.data) for file in own.files}
    written += [f"files/{path}" for path, file in plan.files.items() if held.get(path) != file]
    removed = [f"files/{path}" for path in held if path not in plan.files]
    pins = {**own.pins, pin.name: PinEntry("hooks", plan.entry)}
    used = {name for entry in pins.values() for name in entry.hooks}
    removed += [name for name in own.hooks if name not in used]
    changed = own.pins.get(pin.name) != pins[pin.name]

    def write(fresh: Path) -> None:
        for name, data in plan.hooks.items():
            (fresh / name).parent.mkdir(exist_ok=True)
            (fresh / name).write_bytes(data)
        for path, (mode, data) in plan.files.items():
            place = fresh / "files" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            place.chmod(0o755 if mode == "100755" else 0o644)
        for name in removed:
            (fresh / name).unlink()
        _prune(fresh / "files")
        if changed:
            _set_entry(fresh / "feature.toml", pin.name, plan.entry)
        _prove(open_now, project, fresh, own.name, pin, tree, store)

    try:
        replacing.replace(own.folder, write)
    except OSError as error:
        raise PatchError(f"{own.folder} can't be written: {error.strerror or error}") from error
    if changed:
        written.append("feature.toml")
    files = any(name.startswith("files/") for name in (*written, *removed))
    others = tuple(
        name for name, entry in own.pins.items() if files and entry.kind == "hooks" and name != pin.name
    )
    return Outcome(own.name, pin.name, tuple(written), tuple(removed), others, tree)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _prune(folder: Path) -> None:
    """Remove folders that are empty now."""
    for base, _, _ in os.walk(folder, topdown=False):
        if Path(base) != folder and not os.listdir(base):
            os.rmdir(base)


def _set_entry(path: Path, pin: str, hooks: Sequence[str]) -> None:
    document = tomlkit.parse(path.read_text(encoding="utf-8"))
    pins = document.setdefault("pins", tomlkit.table(is_super_table=True))
    table = pins.get(pin)
    if table is None:
        table = tomlkit.table()
        pins.add(pin, table)
    for key in ("upstream", "not-applicable"):
        table.pop(key, None)
    table["hooks"] = list(hooks)
    path.write_text(tomlkit.dumps(document), encoding="utf-8")


def _prove(
    open_now: Session, project: Project, fresh: Path, name: str, pin: Pin, tree: str, store: TreeStore
) -> None:
    """Refuse a folder that can't be read, or that gives another tree than the session's."""
    with tempfile.TemporaryDirectory(prefix="pyllama-prove-") as scratch:
        copy = Path(scratch) / name
        shutil.copytree(fresh, copy, symlinks=True)
        made = series.load_feature(copy)
        with composing(store, pin.tree, pin.name, keep=False) as composer:
            for other in below(project, project.stack[name], pin):
                composer.add(other)
            if made.files or made.at(pin.name).hooks:
                composer.add(made)
            if composer.tree != tree:
                raise PatchError(
                    f"{name} can't be written so that it gives what is in {open_now.tree}; nothing changed"
                )

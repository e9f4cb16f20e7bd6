"""Make a patched tree as a transaction: it is there, whole and stamped, or it is not there.

The tree is made in the object store, written to a new folder, renamed into place, and stamped
last. Whatever a killed process left behind is recognised by the missing stamp and made again;
a tree that somebody edited is never touched.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ...errors import PatchError
from ..paths import Paths
from ..progress import Reporter, Stage
from ..tree import TreeStore, index_of
from . import lock
from .compose import composing
from .features import Feature
from .key import SCHEMA
from .key import key as stack_key

STAMP = "tree.json"


@dataclass(frozen=True)
class PatchedTree:
    """A tree that is ready to be compiled."""

    pin: str
    key: str
    tree: str
    """git's id of the patched tree."""
    base: str
    """git's id of the pristine tree."""
    features: tuple[str, ...]
    folder: Path
    """Where its files are; builds of it go beside that folder."""


def home(paths: Paths, pin: str, key: str) -> Path:
    """Return the folder of everything that belongs to one patched tree."""
    return paths.build / f"{pin}-{key[:12]}"


def apply(
    pin_name: str,
    tree_id: str,
    features: Sequence[Feature],
    paths: Paths,
    store: TreeStore,
    reporter: Reporter,
) -> PatchedTree:
    """Apply `features`, in their order, to the pristine tree `tree_id` and return the patched tree.

    When it is there already, it is only checked. Raises PatchError when a hook does not apply,
    when the pristine tree is not in the store, when the files of the tree were edited, and when
    the tree is not the one that is locked for these patches.
    """
    key = stack_key(tree_id, features, pin_name)
    place = home(paths, pin_name, key)
    wanted = PatchedTree(
        pin_name, key, "", tree_id, tuple(feature.name for feature in features), place / "tree"
    )
    try:
        paths.build.mkdir(parents=True, exist_ok=True)
        with reporter.stage("patch") as stage, _locked(place, stage):
            stage.note = f"{pin_name}, " + (", ".join(wanted.features) or "no features")
            made = _ready(wanted, store)
            if made is not None:
                stage.note += " (unchanged)"
                return made
            made = _with_tree(wanted, _compose(wanted, features, store, stage))
            for folder in (paths.patches, *paths.on_top):
                lock.compare(lock.load(folder), pin_name, tree_id, features, made.tree)
            # the store may have lacked the objects by which a tree that is there can be checked
            if _ready(wanted, store) is None:
                _write(made, store)
            return made
    except OSError as error:
        raise PatchError(f"the patched tree {place} can't be written: {error.strerror or error}") from error


@contextmanager
def _locked(place: Path, stage: Stage) -> Iterator[None]:
    """Hold the lock of one patched tree; it lies beside what it guards, whatever the cache folder is."""
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        stage.update(0, text="waiting for another process")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _ready(wanted: PatchedTree, store: TreeStore) -> PatchedTree | None:
    """Return the tree if it is there, finished and clean; raise if it was edited; else None."""
    tree = _stamped(wanted)
    if tree is None or tree not in store or not wanted.folder.is_dir() or wanted.folder.is_symlink():
        return None
    changed = store.differences(tree, wanted.folder)
    if changed:
        some = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
        count = f"{len(changed)} file{'s' * (len(changed) > 1)}"
        raise PatchError(
            f"{count} in {wanted.folder} differ from the patched tree of pin {wanted.pin} ({some}): "
            "keep what you need elsewhere, then remove that folder to have it made again"
        )
    _sweep(wanted.folder)
    return _with_tree(wanted, tree)


def _stamped(wanted: PatchedTree) -> str | None:
    try:
        stamp = json.loads((wanted.folder.parent / STAMP).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    tree = stamp.get("tree") if isinstance(stamp, dict) else None
    return tree if isinstance(tree, str) and stamp == _stamp(_with_tree(wanted, tree)) else None


def _stamp(made: PatchedTree) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "pin": made.pin,
        "base": made.base,
        "key": made.key,
        "features": list(made.features),
        "tree": made.tree,
    }


def _with_tree(wanted: PatchedTree, tree: str) -> PatchedTree:
    return PatchedTree(wanted.pin, wanted.key, tree, wanted.base, wanted.features, wanted.folder)


def _compose(wanted: PatchedTree, features: Sequence[Feature], store: TreeStore, stage: Stage) -> str:
    with composing(store, wanted.base, wanted.pin) as composer:
        for number, feature in enumerate(features):
            stage.update(number, len(features) + 1, feature.name)
            composer.add(feature)
        stage.update(len(features), len(features) + 1, "writing the files")
        return composer.tree


def _write(made: PatchedTree, store: TreeStore) -> None:
    place = made.folder.parent
    fresh = not place.exists()
    place.mkdir(exist_ok=True)
    stamp = place / STAMP
    try:
        _clear(made.folder)
        _step("cleared")
        stamp.unlink(missing_ok=True)
        store.checkout(made.tree, made.folder)
        _step("checked out")
        changed = store.differences(made.tree, made.folder)
        if changed:
            raise PatchError(f"{made.folder} came out wrong ({changed[0]}): does its disk fold case?")
        _write_whole(stamp, json.dumps(_stamp(made), indent=1) + "\n")
        _step("stamped")
    except BaseException:
        _clear(made.folder)
        stamp.unlink(missing_ok=True)
        if fresh:
            with suppress(OSError):
                place.rmdir()
        raise


def _clear(folder: Path) -> None:
    """Remove an unfinished tree and what is left of others."""
    place = folder.parent
    if os.path.lexists(folder):
        os.rename(folder, tempfile.mkdtemp(prefix=f".{folder.name}.", dir=place) + "/old")
    index_of(folder).unlink(missing_ok=True)
    _sweep(folder)


def _sweep(folder: Path) -> None:
    """Remove what processes that died left beside a tree (we hold the lock)."""
    place = folder.parent
    for rest in (*place.glob(f".{folder.name}.*"), *place.glob(f".{STAMP}.*")):
        if rest.is_dir() and not rest.is_symlink():
            shutil.rmtree(rest)
        else:
            rest.unlink(missing_ok=True)


def _write_whole(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with open(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.chmod(name, 0o644)
    os.replace(name, path)


def _step(name: str) -> None:
    """Mark a point between two steps; tests kill the process here."""

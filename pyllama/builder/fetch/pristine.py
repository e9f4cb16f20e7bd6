"""Bring a pin's pristine tree to `vendor/<pin>`, from whichever source has it.

`vendor/pins.toml` locks the git tree id of every pin: whatever the source, files that do not hash
to it are refused, and nothing that was there before is touched.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from ...errors import Error, FetchError, PatchError, VerificationError
from ..locks import locked
from ..paths import Paths
from ..pins import Lock, Pin
from ..progress import Reporter, Stage
from ..tree import TreeStore, index_of
from . import sources

_WAYS_OUT = (
    "point to upstream's files with --source path or --source archive, "
    "or set PYLLAMA_INDEX_URL to a package index that can be reached"
)
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class FetchedTree:
    """A pin whose files are in `folder`; `source` says where they came from this time."""

    pin: Pin
    tree: str
    source: str
    folder: Path


@dataclass(frozen=True)
class PinStatus:
    """One row of `pyllama pins`."""

    name: str
    date: str
    commit: str
    tree: str
    why: str
    default: bool
    in_cache: bool
    in_vendor: bool
    folder: Path


def fetch(
    pin: Pin,
    paths: Paths,
    *,
    source: str | None = None,
    path: Path | None = None,
    archive: Path | None = None,
    reporter: Reporter | None = None,
) -> FetchedTree:
    """Make sure that `paths.vendor`/<pin> holds the pin's pristine tree.

    With no `source` the cache is tried, then GitHub, then the package index; a named one is the
    only one that is tried. A folder that is there and was edited is left alone.
    Raises UsageError for a source that does not exist, VerificationError when a named source has
    other files, FetchError when no source delivers or the folder was edited.
    """
    asked = sources.request(source, path, archive)
    report = Reporter(quiet=True) if reporter is None else reporter
    folder = paths.vendor / pin.name
    with locked(paths, f"fetch-{pin.name}", report):
        store = _store(paths)
        used = _acquire(pin, paths, asked, store, folder, report)
        with report.stage("tree") as stage:
            _materialise(pin, store, folder)
            stage.note = f"{pin.name} {pin.tree[:12]} verified, source: {used}"
    return FetchedTree(pin, pin.tree, used, folder)


def cached(pin: Pin, paths: Paths) -> bool:
    """Tell whether the pin's tree is in the user's cache."""
    return (paths.objects / "HEAD").is_file() and pin.tree in TreeStore(paths.objects)


def status(lock: Lock, paths: Paths) -> list[PinStatus]:
    """Return a row per pin, in the lock's order."""
    return [
        PinStatus(
            name=pin.name,
            date=pin.date,
            commit=pin.commit,
            tree=pin.tree,
            why=pin.why,
            default=pin.name == lock.default,
            in_cache=cached(pin, paths),
            in_vendor=(paths.vendor / pin.name).is_dir(),
            folder=paths.vendor / pin.name,
        )
        for pin in lock.pins
    ]


def _store(paths: Paths) -> TreeStore:
    # Two pins have two locks: without this one, both could create the store at once.
    with FileLock(paths.locks / "objects.lock"):
        return TreeStore(paths.objects)


def _acquire(
    pin: Pin, paths: Paths, asked: sources.Request, store: TreeStore, folder: Path, report: Reporter
) -> str:
    """Get the pin's tree into the store and return the name of the source that had it."""
    failures: list[tuple[str, FetchError]] = []
    for name in asked.order(pin):
        try:
            if name == sources.CACHE:
                _from_cache(pin, store, folder)
                return name
            with report.stage("fetch") as stage:
                _from_source(name, pin, asked, paths, store, stage)
                stage.note = f"{pin.name} from {name}"
            return name
        except FetchError as error:
            if asked.source is not None:
                raise type(error)(f"pin {pin.name} from {name}: {error}") from error
            if name != sources.CACHE:
                failures.append((name, error))
                report.say(f"pin {pin.name} is not to be had from {name}: {error}")
    reasons = "; ".join(f"{name}: {error}" for name, error in failures) or "the lock names no source for it"
    raise FetchError(f"pin {pin.name} could not be fetched ({reasons}): {_WAYS_OUT}")


def _from_cache(pin: Pin, store: TreeStore, folder: Path) -> None:
    if pin.tree in store:
        return
    # A cache that was emptied is filled from the folder that it once filled.
    with suppress(PatchError):
        if folder.is_dir() and store.add(folder) == pin.tree:
            return
    raise FetchError("it is not there: leave --source out to fetch it")


def _from_source(
    name: str, pin: Pin, asked: sources.Request, paths: Paths, store: TreeStore, stage: Stage
) -> None:
    work = paths.downloads / f"{pin.name}.work"
    # Only the holder of the pin's lock is here: what is there was left by one that was killed.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        files = sources.obtain(name, pin, asked, paths, work, stage)
        stage.update(0, text="hashing")
        found = store.add(files)
    except PatchError as error:
        raise FetchError(f"its files cannot be hashed ({error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if found != pin.tree:
        hint = ""
        if name in (sources.PATH, sources.ARCHIVE):
            hint = f": give exactly the files of commit {pin.commit}, with no other file among them"
        raise VerificationError(f"expected tree {pin.tree}, found {found}{hint}")


def _materialise(pin: Pin, store: TreeStore, folder: Path) -> None:
    """Check the pin's tree out to `folder`, or see that it is what is there."""
    if not folder.exists():
        try:
            store.checkout(pin.tree, folder)
        except PatchError as error:
            raise FetchError(
                f"the cache {store.repo.directory} is damaged ({error}): delete it and fetch again"
            ) from error
        except OSError as error:
            raise FetchError(f"{folder} cannot be written ({error.strerror}): free the place") from error
        return
    try:
        edited = store.differences(pin.tree, folder)
    except Error as error:
        raise FetchError(
            f"{folder} cannot be checked ({error}): delete it and {index_of(folder).name}, and fetch again"
        ) from error
    if edited:
        shown = ", ".join(edited[:_NAMES_SHOWN])
        more = f" and {len(edited) - _NAMES_SHOWN} more" if len(edited) > _NAMES_SHOWN else ""
        raise FetchError(
            f"{folder} was edited ({shown}{more}) and is left alone: "
            "move your edits away or delete the folder, and fetch again"
        )

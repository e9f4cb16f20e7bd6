"""Copies of finished builds elsewhere, with those of upstream's programs and libraries that are asked for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..errors import UsageError
from . import finished, provenance
from .finished import MANIFEST, Build
from .verify import elf


def export(done: Build, folder: Path, targets: Iterable[str] = ()) -> None:
    """Copy a finished build to `folder`, replacing a build that is there.

    Of what was added to it later, `targets` come along, with the libraries that they need; the rest
    stays out: the same choice gives the same copy. Raises UsageError for a target that has no file of
    its name, and when something else than a build is there: it is not ours to remove.
    """
    folder = folder.resolve()
    if folder.exists() and not _replaceable(folder):
        raise UsageError(f"{folder} holds something that is not a build: name an empty or a new folder")
    added = _with_needs(done.folder, targets)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        fresh = Path(scratch) / "build"
        for name in sorted({*done.info["files"], *added}):
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(done.folder / name, fresh / name)
        if added:
            finished.link_plugins(fresh, done.info)
            provenance.copy_added(done.folder, fresh)
        finished.finish(fresh, done.info, folder)


def _with_needs(build: Path, targets: Iterable[str]) -> set[str]:
    """Return the files of `targets` and of the build's libraries that they need, directly or not."""
    found: set[str] = set()
    wait = [name for target in targets for name in _files_of(build, target)]
    while wait:
        name = wait.pop()
        if name not in found:
            found.add(name)
            wait += _needs(build, build / name)
    return found


def _files_of(build: Path, target: str) -> list[str]:
    names = finished.files_of(build, target)
    if not names:
        raise UsageError(
            f"{target} gives no program or library of that name, so it cannot be exported: "
            "name those that are wanted"
        )
    return names


def _needs(build: Path, path: Path) -> list[str]:
    """Return the build's libraries that a program or library needs; all of them where that cannot be read."""
    library = elf.read(path)
    return [
        own.relative_to(build).as_posix()
        for own in finished.libraries(build)
        if library is None or own.name in library.needed
    ]


def _replaceable(folder: Path) -> bool:
    """Say whether a folder is empty, or a whole build with nothing of anybody else's in it."""
    if not folder.is_dir():
        return False
    held = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    return not held or (finished.is_complete(folder) and held == {*finished.read(folder)["files"], MANIFEST})

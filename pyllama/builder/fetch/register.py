"""Add a pin to a lock: the tree id is computed from the files, nobody types it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from ...errors import PatchError, UsageError, VerificationError
from ..git import Git
from ..locks import locked
from ..paths import Paths
from ..pins import Lock, Pin, extend, parse
from ..progress import Reporter
from ..tree import TreeStore
from . import sources

_HEAD = "# Pins of our own. `tree` is the id of the git tree that a pin's files must hash to.\n"


@dataclass(frozen=True)
class NewPin:
    """What the user says of a pin; the rest is found out."""

    name: str
    date: str
    why: str
    commit: str | None = None
    like: str | None = None


def register(
    new: NewPin,
    asked: sources.Request,
    lock: Lock,
    file: Path,
    paths: Paths,
    reporter: Reporter,
) -> Pin:
    """Add a pin to the lock `file` (made when it is not there), take its files into the cache, return it.

    `lock` is everything that is locked so far, `asked` a folder or an archive. A folder that is a git
    work tree gives the commit, and must hold exactly that commit's files. Raises UsageError for a name
    that is taken or malformed, FetchError or VerificationError when the files are not to be had.
    """
    like = lock.pin(new.like) if new.like is not None else None
    if new.name in {pin.name for pin in lock.pins}:
        raise UsageError(f"there is a pin {new.name!r} already: choose another name")
    head = _head(asked.path)
    commit = new.commit or (head[0] if head else None)
    if commit is None:
        raise UsageError("say with --commit which upstream commit these files are: no git repository tells")
    row = {"name": new.name, "date": new.date, "commit": commit, "tree": "0" * 40, "why": new.why}
    if new.like is not None:
        row["like"] = new.like
    pin = extend(lock, {"pin": [row]}).pin(new.name)  # complains before anything is copied
    provisional = Pin(new.name, commit, "", new.date, new.why, index=like.index if like else None)
    with locked(paths, f"fetch-{new.name}", reporter), reporter.stage("tree") as stage:
        tree = _take(provisional, asked, paths, stage)
        if head is not None and tree != head[1]:
            raise VerificationError(
                f"{asked.path} has other files than its commit {head[0][:12]} "
                f"(expected tree {head[1]}, found {tree}): give a clean work tree, or an archive"
            )
        row["tree"] = tree
        _append(file, row, main=file == paths.pins)
        stage.note = f"{new.name} {tree[:12]} added to {file.name}"
    return Pin(pin.name, pin.commit, tree, pin.date, pin.why, like=pin.like)


def _head(folder: Path | None) -> tuple[str, str] | None:
    """Return commit and tree that a git work tree is at; None for any other folder."""
    place = folder.absolute() / ".git" if folder is not None else None
    if place is not None and place.is_file():  # a linked work tree names its repository
        words = place.read_text("utf-8", "replace").strip().partition("gitdir: ")
        place = place.parent / words[2] if words[1] else None
    if place is None or not place.is_dir():
        return None
    done = Git(place).run("log", "-1", "--format=%H %T", check=False)
    commit, _, tree = done.out.strip().partition(" ")
    return (commit, tree) if done.code == 0 and tree else None


def _take(pin: Pin, asked: sources.Request, paths: Paths, stage: Any) -> str:
    source = asked.source
    if source not in (sources.PATH, sources.ARCHIVE):
        raise UsageError("give the files with --path or --archive")
    work = paths.downloads / f"{pin.name}.work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        files = sources.obtain(source, pin, asked, paths, work, stage)
        return TreeStore(paths.objects).add(files)
    except PatchError as error:
        raise VerificationError(f"its files cannot be hashed ({error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _append(file: Path, row: Mapping[str, str], main: bool) -> None:
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else _HEAD
        document = tomlkit.parse(text)
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        raise UsageError(f"the lock {file} cannot be read ({error}): correct it") from error
    rows = document.get("pin")
    if rows is None:
        rows = tomlkit.aot()
        document.append("pin", rows)
    table = tomlkit.table()
    for key, value in row.items():
        table.add(key, value)
    rows.append(table)
    fresh = tomlkit.dumps(document)
    if main:
        parse(tomlkit.parse(fresh).unwrap())
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with open(handle, "w", encoding="utf-8") as stream:
            stream.write(fresh)
        os.chmod(name, 0o644)
        os.replace(name, file)
    finally:
        Path(name).unlink(missing_ok=True)

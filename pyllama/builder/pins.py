"""The lock, `vendor/pins.toml`: what pyllama builds from, and the hashes that downloads must match."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from ..errors import UsageError

_PATTERNS = {
    "name": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"),
    "project": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"),
    "version": re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]*"),
    "filename": re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]*"),
    "repository": re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+"),
    "commit": re.compile(r"[0-9a-f]{40}"),
    "tree": re.compile(r"[0-9a-f]{40}"),
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "member_sha256": re.compile(r"[0-9a-f]{64}"),
}
_RELATIVE = {"subfolder", "member"}


@dataclass(frozen=True)
class GithubSource:
    """A repository, `owner/name`, that has the pin's commit."""

    repository: str


@dataclass(frozen=True)
class IndexSource:
    """An sdist on the package index that carries the pin's files in `subfolder`."""

    project: str
    version: str
    sha256: str
    subfolder: str


@dataclass(frozen=True)
class Pin:
    """One upstream revision; `tree` is the git tree id that its files must hash to."""

    name: str
    commit: str
    tree: str
    date: str
    why: str
    github: GithubSource | None = None
    index: IndexSource | None = None
    like: str | None = None
    """A pin whose hooks serve this one too, for features that do not name it."""


@dataclass(frozen=True)
class ModelLock:
    """A model file inside a wheel on the package index."""

    name: str
    project: str
    version: str
    filename: str
    sha256: str
    member: str
    member_sha256: str


@dataclass(frozen=True)
class Lock:
    """Everything that is locked; `default` names one of `pins`."""

    default: str
    pins: tuple[Pin, ...]
    model: ModelLock | None = None

    def pin(self, name: str | None = None) -> Pin:
        """Return the pin called `name`, or the default one; UsageError when there is none such."""
        wanted = self.default if name is None else name
        for pin in self.pins:
            if pin.name == wanted:
                return pin
        known = ", ".join(pin.name for pin in self.pins)
        raise UsageError(f"there is no pin {wanted!r}: choose one of {known}")


def load(path: Path, *on_top: Path) -> Lock:
    """Read and check the lock at `path`, and the pins of the locks on top of it.

    UsageError says which file and entry is wrong.
    """
    lock = _whole(path, parse)
    for other in on_top:
        lock = _whole(other, functools.partial(extend, lock))
    return lock


def _whole(path: Path, read: Callable[[Mapping[str, Any]], Lock]) -> Lock:
    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    except OSError as error:
        raise UsageError(f"the lock {path} cannot be read ({error.strerror}): restore it") from error
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise UsageError(f"the lock {path} is not valid TOML ({error}): correct it") from error
    try:
        return read(document)
    except UsageError as error:
        raise UsageError(f"the lock {path} is wrong: {error}") from None


def parse(document: Mapping[str, Any]) -> Lock:
    """Turn the lock's plain data into a `Lock`; UsageError names the entry that is wrong."""
    pins = _pins(document, ())
    model = document.get("model")
    return Lock(_default(document, pins), pins, None if model is None else _model(model))


def extend(lock: Lock, document: Mapping[str, Any]) -> Lock:
    """Add the pins of a lock on top; its `default`, if it has one, is the new default."""
    pins = _pins(document, lock.pins)
    default = lock.default if document.get("default") is None else _default(document, pins)
    return Lock(default, pins, lock.model)


def _pins(document: Mapping[str, Any], below: tuple[Pin, ...]) -> tuple[Pin, ...]:
    rows = document.get("pin", [])
    if not isinstance(rows, list) or not rows:
        raise UsageError("it needs at least one [[pin]]")
    pins = list(below)
    for row in rows:
        pin = _pin(row)
        known = [other.name for other in pins]
        if pin.name in known:
            raise UsageError(f"pin {pin.name!r} is there twice")
        if pin.like is not None and pin.like not in known:
            raise UsageError(f"pin {pin.name!r} is like {pin.like!r}, which is no pin above it")
        pins.append(pin)
    return tuple(pins)


def _default(document: Mapping[str, Any], pins: tuple[Pin, ...]) -> str:
    default = _text(document, "default", "the lock")
    names = [pin.name for pin in pins]
    if default not in names:
        raise UsageError(f"default = {default!r} names no pin: choose one of {', '.join(names)}")
    return default


def _pin(row: Any) -> Pin:
    table = _table(row, "[[pin]]")
    name = _text(table, "name", "[[pin]]")
    where = f"pin {name!r}"
    github = table.get("github")
    index = table.get("index")
    return Pin(
        name=name,
        commit=_text(table, "commit", where),
        tree=_text(table, "tree", where),
        date=_text(table, "date", where),
        why=_text(table, "why", where),
        github=None if github is None else _github(github, f"{where} [pin.github]"),
        index=None if index is None else _index(index, f"{where} [pin.index]"),
        like=None if table.get("like") is None else _text(table, "like", where),
    )


def _github(row: Any, where: str) -> GithubSource:
    return GithubSource(repository=_text(_table(row, where), "repository", where))


def _index(row: Any, where: str) -> IndexSource:
    table = _table(row, where)
    return IndexSource(
        project=_text(table, "project", where),
        version=_text(table, "version", where),
        sha256=_text(table, "sha256", where),
        subfolder=_text(table, "subfolder", where),
    )


def _model(row: Any) -> ModelLock:
    where = "[model]"
    table = _table(row, where)
    return ModelLock(
        name=_text(table, "name", where),
        project=_text(table, "project", where),
        version=_text(table, "version", where),
        filename=_text(table, "filename", where),
        sha256=_text(table, "sha256", where),
        member=_text(table, "member", where),
        member_sha256=_text(table, "member_sha256", where),
    )


def _table(row: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise UsageError(f"{where} must be a table")
    return row


def _text(table: Mapping[str, Any], key: str, where: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        raise UsageError(f'{where} needs {key} = "…"')
    pattern = _PATTERNS.get(key)
    if pattern is not None and pattern.fullmatch(value) is None:
        raise UsageError(f"{where} has a malformed {key}: {value!r}")
    # These name places below a folder of ours: one that climbs out must not get that far.
    if key in _RELATIVE and (PurePosixPath(value).is_absolute() or ".." in PurePosixPath(value).parts):
        raise UsageError(f"{where} has a {key} that leaves its folder: {value!r}")
    return value

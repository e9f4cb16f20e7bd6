"""What a finished build was made from, kept in the build itself: `provenance.json` and `patches/`.

A patches folder changes; a build does not. So the pin, the features and the diff of each, the tree
after each, and the works of others in the libraries are written down when the build is made.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from ..errors import BuildError
from . import finished, third_party
from .pins import Pin
from .stack.apply import PatchedTree
from .stack.commit import commit_stack
from .stack.export import patch_files
from .stack.features import Feature
from .tree import TreeStore
from .verify import elf

SCHEMA = 1
UPSTREAM = "ggml-org/llama.cpp"
"""Whose issues and pull requests a feature's `#123` means."""
_FILE = "provenance.json"
ADDED = "provenance-added.json"
_ADDED_ROWS = ("libraries", "third_party")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Upstream:
    """The revision that the features were applied to."""

    pin: str
    commit: str
    tree: str
    date: str
    repository: str
    """`owner/name` on GitHub; empty when the lock names none."""


@dataclass(frozen=True)
class Change:
    """A feature of the build, and what it changed."""

    name: str
    title: str
    description: str
    origin: tuple[str, ...]
    upstream_status: str
    license: str
    requires: tuple[str, ...]
    patch: str
    """The build's file with the diff; empty where upstream has the feature."""
    sha256: str
    """Of that file."""
    tree: str
    """git's id of the tree with this feature."""


@dataclass(frozen=True)
class Linked:
    """A shared library of the build; both are names of files, the first one within the build."""

    file: str
    needs: tuple[str, ...]
    """What the loader must find for it, in the build or in the system."""


@dataclass(frozen=True)
class ThirdParty:
    """A work of others that a library holds code of."""

    name: str
    url: str
    license: str
    copyright: str
    source: str
    """Where it is in upstream's tree, or what there includes it."""
    library: str
    """The build's file that holds it."""
    notice: str
    """The build's file with the licence text; empty when the source has none."""


@dataclass(frozen=True)
class Provenance:
    """Everything that `provenance.json` says."""

    upstream: Upstream
    tree: str
    """git's id of the patched tree."""
    features: tuple[Change, ...]
    libraries: tuple[Linked, ...]
    third_party: tuple[ThirdParty, ...]


def write(
    out: Path, pin: Pin, features: Sequence[Feature], patched: PatchedTree, store: TreeStore
) -> Provenance:
    """Write down in the build `out` what it was made from.

    Raises PatchError when a feature does not apply, BuildError when the patched tree is another one.
    """
    changes = _changes(out, pin, features, store)
    tree = changes[-1].tree if changes else pin.tree
    if tree != patched.tree:
        raise BuildError(f"the patches give the tree {tree}, but {patched.tree} was compiled: build again")
    held = Provenance(
        Upstream(pin.name, pin.commit, pin.tree, pin.date, pin.github.repository if pin.github else ""),
        tree,
        changes,
        _libraries(out),
        _third_party(out, patched.folder),
    )
    table = {"schema": SCHEMA, **asdict(held)}
    text = json.dumps(table, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (out / _FILE).write_text(text, encoding="utf-8")
    return held


def add(folder: Path, tree: Path) -> None:
    """Write down what a finished build holds since upstream's programs were added to it.

    It is a file of its own: the build's is part of every copy of it, and stays as it was made.
    """
    _write_added(folder, _libraries(folder), _third_party(folder, tree))


def copy_added(folder: Path, copy: Path) -> None:
    """Write down in a copy of a build what it holds of all that was added, with the licences of that."""
    held = read(folder)
    works = tuple(row for row in held.third_party if (copy / row.library).is_file())
    for notice in {row.notice for row in works if row.notice}:
        shutil.copy2(folder / notice, copy / notice)
    _write_added(copy, tuple(row for row in held.libraries if (copy / row.file).is_file()), works)


def _write_added(folder: Path, libraries: Sequence[Linked], works: Sequence[ThirdParty]) -> None:
    rows = ([asdict(row) for row in libraries], [asdict(row) for row in works])
    table = dict(zip(_ADDED_ROWS, rows, strict=True))
    fresh = folder / f".{ADDED}.{os.getpid()}"
    fresh.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(fresh, folder / ADDED)


def _changes(out: Path, pin: Pin, features: Sequence[Feature], store: TreeStore) -> tuple[Change, ...]:
    commits = commit_stack(pin.name, pin.tree, features, store)
    trees = {commit.feature: commit.tree for commit in commits}
    diffs = dict(patch_files(store.repo, commits, features))
    folder = out / "patches"
    changes: list[Change] = []
    tree = pin.tree
    for feature in features:
        patch = digest = ""
        if feature.name in diffs:
            data = diffs[feature.name]
            number = 1 + sum(bool(change.patch) for change in changes)
            patch, digest = f"patches/{number:04d}-{feature.name}.patch", hashlib.sha256(data).hexdigest()
            folder.mkdir(exist_ok=True)
            (out / patch).write_bytes(data)
            tree = trees[feature.name]
        changes.append(
            Change(
                feature.name,
                " ".join(feature.title.split()),
                feature.description.strip(),
                feature.origin,
                feature.upstream_status,
                feature.license,
                feature.requires,
                patch,
                digest,
                tree,
            )
        )
    return tuple(changes)


def _libraries(out: Path) -> tuple[Linked, ...]:
    modules = sorted(path for path in (out / "python").glob("*") if path.suffix in (".so", ".pyd"))
    rows = []
    for path in [*finished.libraries(out), *modules]:
        library = elf.read(path)
        rows.append(Linked(path.relative_to(out).as_posix(), library.needed if library else ()))
    return tuple(rows)


def _third_party(out: Path, tree: Path) -> tuple[ThirdParty, ...]:
    rows = []
    for work, library in third_party.held(tree, out):
        text = third_party.notice(tree, work)
        notice = f"licenses/LICENSE-{work.name}" if text else ""
        if notice:
            (out / notice).parent.mkdir(exist_ok=True)
            (out / notice).write_text(text, encoding="utf-8")
        file = library.relative_to(out).as_posix()
        rows.append(ThirdParty(work.name, work.url, work.license, work.copyright, work.source, file, notice))
    return tuple(rows)


def read(folder: Path) -> Provenance:
    """Return what a finished build was made from.

    Raises BuildError when that is missing or damaged, and when a patch is not the one of the build.
    """
    path = folder / _FILE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["schema"] != SCHEMA:
            raise ValueError(f"its schema is {table['schema']!r}")
        if (folder / ADDED).exists():
            added = json.loads((folder / ADDED).read_text(encoding="utf-8"))
            table |= {name: added[name] for name in _ADDED_ROWS}
        if not isinstance(table["tree"], str):
            raise ValueError(f"tree is {table['tree']!r}")
        held = Provenance(
            _row(Upstream, table["upstream"]),
            table["tree"],
            tuple(_row(Change, row) for row in table["features"]),
            tuple(_row(Linked, row) for row in table["libraries"]),
            tuple(_row(ThirdParty, row) for row in table["third_party"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{path} cannot be read ({error}): build or install pyllama again") from error
    for change in held.features:
        if change.patch and _digest(folder / change.patch) != change.sha256:
            raise BuildError(
                f"{folder / change.patch} is not the patch of this build: build or install pyllama again"
            )
    return held


def _row(kind: type[_T], row: dict[str, Any]) -> _T:
    """Return a row as one of our classes, whose fields are texts and tuples of texts."""
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        value = row[field.name]
        if field.type == "str":
            right = isinstance(value, str)
        else:
            right = isinstance(value, list) and all(isinstance(text, str) for text in value)
        if not right:
            raise ValueError(f"{field.name} is {value!r}")
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""

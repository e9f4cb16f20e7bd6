"""The patch stack on disk: `series.toml` and the features' folders, read once and checked.

Loading reads every byte that may be applied, so a key and the tree that is made from it can
never be of two different states of the folder.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import tomlkit
from tomlkit.exceptions import TOMLKitError

from ...errors import PatchError
from .features import Contract, Feature, Needle, PinEntry, SourceFile, Stack, Symbol
from .hooks import SIZE_LIMIT, Hook, parse, path_fault
from .table import Table

FILE_LIMIT = 16 << 20
"""The largest new source file of a feature, in bytes."""

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_STATUS = re.compile(r"pending|denied|inappropriate|merged-in [0-9a-f]{7,40}")


def load(folder: Path, *on_top: Path) -> Stack:
    """Read the series in `folder`, and those that are carried on top of it, and check them."""
    features: list[Feature] = []
    for series in (folder, *on_top):
        features += [load_feature(series / name) for name in listed(series)]
    check_graph(features)
    return Stack(tuple(features))


def is_name(text: str) -> bool:
    """Say whether a feature can be called that."""
    return _NAME.fullmatch(text) is not None


def load_feature(folder: Path) -> Feature:
    """Read one feature's folder."""
    where = f"feature {folder.name}"
    if folder.is_symlink() or not folder.is_dir():
        raise PatchError(f"{where}: {folder} is not a folder")
    top = Table(_toml(folder / "feature.toml"), f"{where}: feature.toml")
    status = top.text("upstream-status")
    if not _STATUS.fullmatch(status):
        top.fail(f"upstream-status {status!r} is none of pending, merged-in COMMIT, denied, inappropriate")
    table = top.child("pins")
    pins = {name: _pin(table.child(name)) for name in table.names()}
    used = dict.fromkeys(hook for entry in pins.values() for hook in entry.hooks)
    feature = Feature(
        name=folder.name,
        folder=folder,
        title=top.text("title"),
        description=top.text("description"),
        origin=top.texts("origin"),
        upstream_status=status,
        license=top.text("license"),
        requires=top.texts("requires", ()),
        conflicts=top.texts("conflicts", ()),
        contract=_contract(top.child("contract")),
        pins=MappingProxyType(pins),
        files=_files(folder / "files", where),
        hooks=MappingProxyType({name: _hook(folder, name) for name in used}),
    )
    top.finish("pins", "contract")
    return feature


def listed(folder: Path) -> tuple[str, ...]:
    """Return the names of the features of a series, in order; PatchError when folders and names disagree."""
    table = Table(_toml(folder / "series.toml"), "series.toml")
    names = table.texts("features")
    table.finish()
    for name in names:
        if not is_name(name):
            table.fail(f"{name!r} can't name a feature: use small letters, digits and dashes")
    if len(set(names)) != len(names):
        table.fail("a feature is listed twice")
    there = {entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] not in "._"}
    for name in sorted(there - set(names)):
        table.fail(f"the folder {name} is not listed: add it, or remove the folder")
    for name in names:
        if name not in there:
            table.fail(
                f"{name} is listed, but has no folder: restore it, or refresh again if that was cut off"
            )
    return names


def _pin(table: Table) -> PinEntry:
    given = table.names()
    if len(given) != 1:
        table.fail("exactly one of hooks, upstream and not-applicable must be given")
    entry = PinEntry("hooks")
    if "upstream" in given:
        entry = PinEntry("upstream", reason=table.text("upstream"))
    elif "not-applicable" in given:
        entry = PinEntry("not-applicable", reason=table.text("not-applicable"))
    elif "hooks" in given:
        entry = PinEntry("hooks", hooks=table.texts("hooks"))
        if len(set(entry.hooks)) != len(entry.hooks):
            table.fail("a hook is listed twice")
    table.finish()
    return entry


def _contract(table: Table) -> Contract:
    contract = Contract(
        symbols=tuple(Symbol(*pair) for pair in table.pairs("symbols", "library", "name")),
        macros=table.texts("macros", ()),
        headers=table.texts("headers", ()),
        needles=tuple(Needle(*pair) for pair in table.pairs("needles", "file", "text")),
        tests=table.texts("tests", ()),
    )
    table.finish()
    return contract


def check_graph(features: Sequence[Feature]) -> None:
    """Raise PatchError when features name others that are not there, come too early, or form a circle."""
    place: dict[str, int] = {}
    for number, feature in enumerate(features):
        if feature.name in place:
            raise PatchError(f"feature {feature.name} is in two series: rename one of them")
        place[feature.name] = number
    by_name = {feature.name: feature for feature in features}
    for feature in features:
        for key, others in (("requires", feature.requires), ("conflicts", feature.conflicts)):
            for other in others:
                if other not in place or other == feature.name:
                    raise PatchError(f"feature {feature.name}: {key} names {other!r}, an unknown feature")
    done: set[str] = set()
    for feature in features:
        _check_cycle(by_name, feature.name, (), done)
    for feature in features:
        for other in feature.requires:
            if place[other] > place[feature.name]:
                raise PatchError(f"series.toml: {other} must come before {feature.name}, which requires it")


def _check_cycle(features: Mapping[str, Feature], name: str, path: tuple[str, ...], done: set[str]) -> None:
    if name in path:
        circle = " → ".join((*path[path.index(name) :], name))
        raise PatchError(f"features require each other in a circle: {circle}")
    if name not in done:
        for other in features[name].requires:
            _check_cycle(features, other, (*path, name), done)
        done.add(name)


def _hook(folder: Path, name: str) -> Hook:
    where = f"feature {folder.name}, hook {name}"
    if path_fault(name) or not name.startswith("hooks/"):
        raise PatchError(f"{where}: the path must be a plain one below hooks/")
    return parse(name, _read(folder, name, SIZE_LIMIT, where)[0], where)


def _files(folder: Path, where: str) -> tuple[SourceFile, ...]:
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
        raise PatchError(f"{where}: files/ must be a folder, not a link or a file")
    found: list[SourceFile] = []
    for base, folders, names in os.walk(folder):
        for name in (*folders, *names):
            full = Path(base) / name
            path = full.relative_to(folder).as_posix()
            label = f"{where}, file {path!r}"
            fault = path_fault(path)
            if fault:
                raise PatchError(f"{label} {fault}: rename it")
            if name in folders and not full.is_symlink():
                continue
            data, executable = _read(folder, path, FILE_LIMIT, label)
            found.append(SourceFile(path, "100755" if executable else "100644", data))
    return tuple(sorted(found, key=lambda file: file.path))


def _read(folder: Path, name: str, limit: int, where: str) -> tuple[bytes, bool]:
    """Return the bytes of a plain file below `folder` and whether its owner may execute it."""
    place = folder
    for part in name.split("/"):
        place = place / part
        if place.is_symlink():
            raise PatchError(f"{where}: {part} is a symbolic link: put the file there itself")
    try:
        with open(place, "rb", opener=_open_plain) as stream:
            info = os.fstat(stream.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise PatchError(f"{where} is not a plain file")
            data = stream.read(limit + 1)
    except OSError as error:
        raise PatchError(f"{where} in {folder} can't be read: {error.strerror}") from None
    if len(data) > limit:
        raise PatchError(f"{where} is larger than {limit >> 20} MiB")
    return data, bool(info.st_mode & stat.S_IXUSR)


def _open_plain(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))


def _toml(path: Path) -> Mapping[str, object]:
    where = f"feature {path.parent.name}: feature.toml" if path.name == "feature.toml" else path.name
    data, _ = _read(path.parent, path.name, SIZE_LIMIT, where)
    try:
        return tomlkit.parse(data.decode("utf-8")).unwrap()
    except UnicodeDecodeError as error:
        raise PatchError(f"{where} is not UTF-8 at byte {error.start}: save it as UTF-8") from None
    except TOMLKitError as error:
        raise PatchError(f"{where} is not TOML: {error}") from None

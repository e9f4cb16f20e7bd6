"""Start a new feature: its folder, its line in the series."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tomlkit

from ...errors import PatchError, UsageError
from ..stack import series
from . import replacing
from .session import step

_SERIES = """\
# A series on top of pyllama's: the features of this folder, in the order in which they are applied.
features = []
"""
_FEATURE = """\
# {name}: what it is, what a build must have for it to count, and which hooks serve which pin.
title = {title}
description = {description}
# Where it comes from: pull requests (#123), URLs, commits.
origin = []
# pending, denied, inappropriate, or merged-in COMMIT
upstream-status = "pending"
license = "MIT"
requires = [{requires}]
conflicts = []

[contract]
# What `pyllama verify` looks for. Functions of libraries: {{library = "llama", name = "llama_x"}}
symbols = []
macros = []
# Public headers that the feature brings: "include/llama-x.h"
headers = []
# Text that must be in files of the patched tree: {{file = "src/llama.cpp", text = "llama_x("}}
needles = []
# Tests that prove it, from the root of the checkout.
tests = []

[pins.{pin}]
hooks = []
"""
_README = """\
# {name}

{title}. Say here what is wrong or missing without `{name}`, what it does, and what to look at when
it no longer applies.
"""


def begin(folder: Path) -> None:
    """Make `folder` a series when it is not one yet. Raises PatchError when it can't be written."""
    if not (folder / "series.toml").exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / "series.toml", _SERIES)
        except OSError as error:
            raise PatchError(f"{folder} can't be written: {error.strerror or error}") from error


def new(folder: Path, name: str, taken: Sequence[str], title: str, requires: Sequence[str], pin: str) -> Path:
    """Add a feature at the end of the series in `folder` and return its folder.

    `taken` are the names of all features that there are. Raises UsageError for a name that can't be or
    is taken, PatchError when the folder can't be written.
    """
    if not series.is_name(name):
        raise UsageError(f"{name!r} can't name a feature: use small letters, digits and dashes")
    if name in taken:
        raise UsageError(f"there is a feature {name} already: choose another name")
    unknown = [other for other in requires if other not in taken]
    if unknown:
        raise UsageError(
            f"there is no feature {unknown[0]!r} to require: known are {', '.join(taken) or 'none'}"
        )
    place = folder / name
    words = {
        "name": name,
        "pin": pin if pin.replace("-", "").replace("_", "").isalnum() else f'"{pin}"',
        "title": tomlkit.item(title).as_string(),
        "description": tomlkit.item(f"{title}.").as_string(),
        "requires": ", ".join(f'"{other}"' for other in requires),
    }

    def write(fresh: Path) -> None:
        (fresh / "feature.toml").write_text(_FEATURE.format(**words), encoding="utf-8")
        (fresh / "README.md").write_text(_README.format(name=name, title=title), encoding="utf-8")
        (fresh / "files").mkdir()

    try:
        if not place.exists():  # else a process was killed before the feature was listed
            replacing.replace(place, write)
        step("folder made")
        _list(folder / "series.toml", name)
        step("listed")
    except OSError as error:
        raise PatchError(f"{folder} can't be written: {error.strerror or error}") from error
    return place


def listed(folders: Sequence[Path]) -> tuple[str, ...]:
    """Return the names in the series of these folders; a folder that is not listed yet does not matter."""
    names: list[str] = []
    for folder in folders:
        try:
            document = tomlkit.parse((folder / "series.toml").read_text(encoding="utf-8")).unwrap()
        except (OSError, ValueError) as error:
            raise PatchError(f"{folder / 'series.toml'} can't be read ({error}): restore it") from error
        names += [str(name) for name in document.get("features", [])]
    return tuple(names)


def _list(path: Path, name: str) -> None:
    document = tomlkit.parse(path.read_text(encoding="utf-8"))
    features = document["features"]
    if not isinstance(features, list):
        raise PatchError(f"{path}: features must be a list of names")
    features.append(name)
    _write(path, tomlkit.dumps(document))


def _write(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with open(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(name, 0o644)
    os.replace(name, path)

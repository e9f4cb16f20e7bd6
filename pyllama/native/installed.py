"""Find the build that this process uses, and say what it is. Loads nothing native."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LoadError

_INSTALLED = "_build"
# What this Python layer expects of a build; the builder writes the same number.
SCHEMA = 3


@dataclass(frozen=True)
class BuildInfo:
    """What the libraries of this process were built from."""

    pin: str
    """Name of the pin in `pins.toml`."""
    commit: str
    """Upstream's commit, 40 hex digits."""
    key: str
    """Identity of the patched tree, 64 hex digits."""
    build_key: str
    """Identity of the whole build: tree, options, compiler, CPU and bindings."""
    features: tuple[str, ...]
    """Names of the features that are in, in the order they were applied."""
    backends: tuple[str, ...]
    """Names of the backends whose plug-ins were built."""
    plugins: tuple[str, ...]
    """File names of the backends' plug-ins, without prefix and suffix."""
    flavour: str
    """`release` or `asan`."""
    cpu: str
    """Upstream's name of the CPU variant."""
    folder: Path
    """The build itself: `lib/`, `include/`, `python/`, `patches/`, `build.json`, `provenance.json`."""

    @property
    def lib_dir(self) -> Path:
        """The folder with the shared libraries."""
        return self.folder / "lib"

    @property
    def include_dirs(self) -> tuple[Path, ...]:
        """The folders with the patched public headers."""
        return (self.folder / "include",)


def find_build() -> Path:
    """Return the folder of the build: `PYLLAMA_BUILD`, or what was installed with the package.

    Raises LoadError when there is none.
    """
    chosen = os.environ.get("PYLLAMA_BUILD")
    if chosen:
        folder = Path(chosen).expanduser().absolute()
        if not (folder / "build.json").is_file():
            raise LoadError(f"PYLLAMA_BUILD={chosen} is not a finished build: it has no build.json")
        return folder
    beside = Path(__file__).resolve().parents[1] / _INSTALLED
    if (beside / "build.json").is_file():
        return beside
    installed = _editable()
    if installed is not None:
        return installed
    raise LoadError(
        "pyllama was imported without its native libraries: run `pip install .` in the checkout, "
        "or `pyllama build` and set PYLLAMA_BUILD to the folder that it prints"
    )


def _editable() -> Path | None:
    """Return the build of an editable installation: it lies in site-packages, we in the checkout."""
    from importlib import metadata

    try:
        folder = Path(str(metadata.distribution("pyllama-cffi").locate_file(f"pyllama/{_INSTALLED}")))
    except metadata.PackageNotFoundError:
        return None
    return folder if (folder / "build.json").is_file() else None


def read_json(folder: Path) -> dict[str, Any]:
    """Read `build.json`; LoadError when it is damaged."""
    try:
        table: dict[str, Any] = json.loads((folder / "build.json").read_text(encoding="utf-8"))
        if not isinstance(table, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError) as error:
        raise LoadError(f"{folder / 'build.json'} cannot be read ({error}): install pyllama again") from error
    return table


@functools.cache
def build_info() -> BuildInfo:
    """Say what the native libraries of this process were built from.

    Raises LoadError when nothing is built.
    """
    folder = find_build()
    table = read_json(folder)
    if table.get("schema") != SCHEMA:
        raise LoadError(f"the build in {folder} was made by another version of pyllama: build it again")
    try:
        return BuildInfo(
            pin=table["pin"],
            commit=table["commit"],
            key=table["key"],
            build_key=table["build_key"],
            features=tuple(table["features"]),
            backends=tuple(table["backends"]),
            plugins=tuple(table["plugins"]),
            flavour=table["flavour"],
            cpu=table["cpu"],
            folder=folder,
        )
    except (KeyError, TypeError) as error:
        raise LoadError(f"{folder / 'build.json'} is incomplete: install pyllama again") from error

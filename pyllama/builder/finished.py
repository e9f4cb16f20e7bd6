"""Finished builds: folders in the cache that are whole."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BuildError

MANIFEST = "build.json"
_SELF_LOCATING = "self-locating"  # the feature by which libggml finds the plug-ins beside itself


@dataclass(frozen=True)
class Build:
    """A finished build; `info` is its `build.json`, `cached` says that it was there already."""

    folder: Path
    info: dict[str, Any]
    cached: bool


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest of a finished build; BuildError when it has none."""
    try:
        info: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{folder} is not a finished build: remove it and build again") from error
    return info


def is_complete(folder: Path) -> bool:
    """Say whether every file that the manifest lists is there with its size."""
    try:
        files = read(folder)["files"].items()
        return len(files) > 0 and all((folder / name).stat().st_size == size for name, size in files)
    except (OSError, BuildError, KeyError, AttributeError, TypeError):
        return False


def finish(out: Path, info: dict[str, Any], folder: Path) -> None:
    """Write the manifest of the new build `out` and put it in the place of `folder`."""
    files = {p.relative_to(out).as_posix(): p.stat().st_size for p in sorted(out.rglob("*")) if p.is_file()}
    text = json.dumps({**info, "files": files}, indent=1, sort_keys=True) + "\n"
    (out / MANIFEST).write_text(text, encoding="utf-8")
    _put(out, folder)


def files_of(folder: Path, target: str) -> list[str]:
    """Return the files that one of upstream's programs or libraries has in a build; none without it."""
    libraries = (f"lib/{prefix}{target}{suffix}" for prefix in ("lib", "") for suffix in SUFFIXES)
    names = (f"bin/{target}", f"bin/{target}.exe", *libraries)
    return [name for name in names if (folder / name).is_file()]


SUFFIXES = (".so", ".dylib", ".dll")


def libraries(folder: Path) -> list[Path]:
    """Return the shared libraries of a build, plug-ins included."""
    return sorted(path for path in (folder / "lib").glob("*") if path.suffix in SUFFIXES)


def add(product: Path, folder: Path) -> None:
    """Add a compiled program or library to a finished build, whole or not at all."""
    _copy(product, folder / ("lib" if product.suffix in SUFFIXES else "bin"))


def link_plugins(folder: Path, info: dict[str, Any]) -> None:
    """Put the plug-ins beside the programs of a build whose libraries do not find them themselves.

    Upstream searches a program's own folder and the current one only. `info` is the build's manifest.
    """
    programs = folder / "bin"
    if _SELF_LOCATING in info["features"] or not programs.is_dir():
        return
    for library in libraries(folder):
        if library.stem.removeprefix("lib") not in info["plugins"]:
            continue
        if sys.platform == "win32":  # where links are not for everybody
            _copy(library, programs)
        else:
            with suppress(FileExistsError):
                (programs / library.name).symlink_to(Path("..", "lib", library.name))


def _copy(file: Path, place: Path) -> None:
    """Copy a file into a folder, whole or not at all; one that is there stays."""
    if (place / file.name).exists():
        return
    place.mkdir(exist_ok=True)
    handle, fresh = tempfile.mkstemp(prefix=f".{file.name}.", dir=place)
    os.close(handle)
    try:
        shutil.copy2(file, fresh)
        os.replace(fresh, place / file.name)
    finally:
        Path(fresh).unlink(missing_ok=True)


def _put(fresh: Path, folder: Path) -> None:
    """Rename a new folder into place; what was there goes only when that has worked."""
    if not folder.exists():
        os.rename(fresh, folder)
        return
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        aside = Path(scratch) / "old"
        os.rename(folder, aside)
        try:
            os.rename(fresh, folder)
        except OSError:
            os.rename(aside, folder)
            raise

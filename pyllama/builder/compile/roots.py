"""Where CMake looks for what a backend needs, beside the places that the compiler and the shell know."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from .backends import Backend


def roots(row: Backend, environment: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the folders with `bin`, `include` and `lib` that CMake searches first: those that are there."""
    named = environment.get("CMAKE_PREFIX_PATH", "").split(os.pathsep)
    vendors = [environment.get(place[1:], "") if place.startswith("$") else place for place in row.places]
    return tuple(path for path in map(Path, filter(None, [*named, *vendors])) if path.is_dir())


def program(name: str, found: Sequence[Path]) -> str | None:
    """Return a program's path, or None."""
    return next(filter(None, (shutil.which(name, path=root / "bin") for root in found)), shutil.which(name))


def headers(found: Sequence[Path]) -> list[str]:
    """Return the compiler's options for headers in these roots."""
    return [f"-I{root / 'include'}" for root in found]


def libraries(found: Sequence[Path]) -> list[str]:
    """Return the linker's options for libraries in these roots."""
    return [f"-L{root / name}" for root in found for name in ("lib", "lib64") if (root / name).is_dir()]

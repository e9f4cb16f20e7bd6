"""Is what a backend needs there? Asked of the real compiler, before CMake runs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ... import extras
from ...errors import BuildError
from ..paths import Paths
from ..progress import Reporter
from . import cuda, hip, roots, supplies
from .backends import Backend, Need
from .toolchain import Compilers


@dataclass(frozen=True)
class Missing:
    """A need of a backend that is not met here."""

    need: Need
    old: bool = False
    """Whether it is there, but too old."""

    def __str__(self) -> str:
        what = f"the library {self.need.name}" if self.need.kind == "library" else self.need.name
        if self.need.kind == "flag":
            what = f"a C++ compiler that takes {self.need.name}"
        return f"{what}{' is too old' if self.old else ''} ({advice(self.need)})"


def missing(row: Backend, compilers: Compilers) -> list[Missing]:
    """Return what keeps a backend from being compiled here; what we can supply ourselves does not."""
    found = (_check(need, compilers, roots.roots(row)) for need in row.needs)
    return [lack for lack in found if lack and not (lack.need.supply and supplies.available())]


def meet(rows: Iterable[Backend], compilers: Compilers, paths: Paths, reporter: Reporter) -> dict[str, str]:
    """Return the CMake settings that the needs of `rows` ask for, fetching what we supply.

    Raises BuildError that names everything that is missing, FetchError when a supply cannot be had.
    """
    settings: dict[str, str] = {}
    for row in rows:
        lacking = missing(row, compilers)
        if lacking:
            raise BuildError(f"{row.name} cannot be built: {'; '.join(map(str, lacking))}")
        for need in row.needs:
            if need.kind == "cuda":
                settings.update(cuda.settings(paths, compilers))
            elif need.kind == "hip":
                settings["CMAKE_HIP_ARCHITECTURES"] = hip.architectures(roots.roots(row))
            elif need.supply and _check(need, compilers, roots.roots(row)):
                supply = supplies.table()[need.supply]
                settings[supply.setting] = str(supplies.provide(supply, paths, reporter))
    return settings


def advice(need: Need) -> str:
    """Return how to get something on this system."""
    ways = dict(need.get)
    if "extra" in ways:
        ways["extra"] = extras.install(ways["extra"])
    order = ["extra", "apt", "page"] if shutil.which("apt-get") else ["extra", "page"]
    if sys.platform == "darwin":
        order = ["brew", "page"]
    chosen = [ways[way] for way in order if way in ways]
    return " or ".join(chosen[:2]) or "get it from its vendor"


def _check(need: Need, compilers: Compilers, found: Sequence[Path]) -> Missing | None:
    """Return what is wrong with one need, or None; `found` are the roots of its row."""
    if need.kind == "program":
        return None if roots.program(need.name, found) else Missing(need)
    if need.kind == "cuda":
        return None if cuda.find(compilers) else Missing(need)
    if need.kind == "hip":
        said = hip.version(found)
        return Missing(need, old=said is not None) if said is None or hip.too_old(said) else None
    if need.kind == "library":
        flags = [*roots.libraries(found), f"-l{need.name}", "-o", os.devnull]
        return None if _compiles(compilers, "int main() {}", *flags) else Missing(need)
    if need.kind == "flag":
        return None if _compiles(compilers, "int main() {}", need.name, "-fsyntax-only") else Missing(need)
    text = f"#include <{need.name}>\n"
    flags = [*roots.headers(found), "-E", "-o", os.devnull]
    if not _compiles(compilers, text, *flags):
        return Missing(need)
    old = f"{text}#ifndef {need.macro}\n#error too old\n#endif\n"
    return Missing(need, old=True) if need.macro and not _compiles(compilers, old, *flags) else None


def _compiles(compilers: Compilers, text: str, *flags: str) -> bool:
    words = [compilers.cxx, *shlex.split(os.environ.get("CXXFLAGS", "")), "-x", "c++", "-", *flags]
    words += shlex.split(os.environ.get("LDFLAGS", "")) if "-E" not in flags else []
    return subprocess.run(words, input=text, text=True, capture_output=True, check=False).returncode == 0

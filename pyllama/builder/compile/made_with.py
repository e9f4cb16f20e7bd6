"""What a plug-in is made with beside the compilers: part of a build's key, and of no other backend's objects.

Versions count, not where a program lies: two machines with the same tools share a key.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from collections.abc import Mapping

from . import cuda, hip, roots
from .backends import Backend
from .toolchain import Compilers

# Where CMake, pkg-config and the compilers look for whatever a backend needs.
_PLACES = (
    *("CMAKE_PREFIX_PATH", "CMAKE_INCLUDE_PATH", "CMAKE_LIBRARY_PATH", "CMAKE_PROGRAM_PATH"),
    *("PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "CPATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH"),
)


def made_with(
    row: Backend, compilers: Compilers, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the tools that a backend needs, each with its version, and the variables that choose them.

    Empty for a backend that needs nothing but the compilers. What is missing is `none`: it is refused when
    it is needed. Raises UsageError when the GPUs to compile for are not known (`cuda.architectures`,
    `hip.architectures`).
    """
    if not row.needs:
        return {}
    told = {name: environment[name] for name in (*_PLACES, *row.environment) if name in environment}
    found = roots.roots(row, environment)
    for need in row.needs:
        if need.kind == "program":
            told[need.name] = _said([roots.program(need.name, found) or need.name, "--version"])
        elif need.kind == "header":
            told[need.name] = _macros(need.name, compilers, [*_flags(environment), *roots.headers(found)])
        elif need.kind == "cuda":
            told[need.name] = cuda.choice(compilers)
        elif need.kind == "hip":
            said = hip.version(found)
            told[need.name] = "none" if said is None else f"{hip.architectures(found)} {said}"
    return told


def _said(command: list[str], text: str = "") -> str:
    """Return what a program writes, `none` when there is none such or it fails."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except OSError:
        return "none"
    return done.stdout.strip() if done.returncode == 0 else "none"


def _flags(environment: Mapping[str, str]) -> list[str]:
    return shlex.split(environment.get("CXXFLAGS", ""))


def _macros(header: str, compilers: Compilers, flags: list[str]) -> str:
    """Return a hash of what a header defines: its version, and what it can do."""
    said = _said([compilers.cxx, *flags, "-x", "c++", "-E", "-dM", "-"], f"#include <{header}>\n")
    return said if said == "none" else hashlib.sha256(said.encode()).hexdigest()

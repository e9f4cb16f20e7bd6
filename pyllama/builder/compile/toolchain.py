"""Find the tools that a build needs, and say who the compiler is."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ...errors import BuildError

# Module of the package index that carries a program, and its attribute with the folder.
_CARRIED = {"cmake": ("cmake", "CMAKE_BIN_DIR"), "ninja": ("ninja", "BIN_DIR")}


@dataclass(frozen=True)
class Compilers:
    """Both by absolute path; `identity` is part of a build's key."""

    cc: str
    cxx: str
    identity: str


@dataclass(frozen=True)
class Toolchain:
    """Programs, by absolute path."""

    compilers: Compilers
    cmake: str
    ninja: str
    launcher: str | None


def find_program(name: str, advice: str) -> str:
    """Return the path of a program from the package index, beside our Python, or on PATH.

    Raises BuildError with `advice` when it is nowhere.
    """
    carried = _CARRIED.get(name)
    if carried is not None:
        try:
            folder = getattr(importlib.import_module(carried[0]), carried[1])
        except (ImportError, AttributeError):
            folder = None
        found = folder and shutil.which(name, path=str(folder))
        if found:
            return found
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))
    if not found:
        raise BuildError(f"{name} was not found: {advice}")
    return found


def find_compiler(variable: str, names: tuple[str, ...], advice: str) -> str:
    """Return the compiler that the user named in `variable`, or the first of `names` there is."""
    chosen = os.environ.get(variable)
    if chosen:
        found = shutil.which(chosen)
        if not found:
            raise BuildError(f"{variable}={chosen} is not a program: unset it or name a compiler")
        return found
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    raise BuildError(f"no {'C++' if variable == 'CXX' else 'C'} compiler was found: {advice}")


def find_compilers() -> Compilers:
    """Find the compilers, or raise BuildError that says what to install."""
    advice = "install gcc and g++ (Debian: apt-get install build-essential), or set CC and CXX"
    cc = find_compiler("CC", ("cc", "gcc", "clang"), advice)
    cxx = find_compiler("CXX", ("c++", "g++", "clang++"), advice)
    return Compilers(cc, cxx, f"{_identity(cc)} | {_identity(cxx)}")


def find() -> Toolchain:
    """Find everything, or raise BuildError that names the first thing that is missing."""
    compilers = find_compilers()
    cmake = find_program("cmake", "pip install cmake")
    ninja = find_program("ninja", "pip install ninja")
    return Toolchain(compilers, cmake, ninja, shutil.which("ccache") or shutil.which("sccache"))


def _identity(compiler: str) -> str:
    words = []
    for flag in ("--version", "-dumpmachine"):
        done = subprocess.run([compiler, flag], capture_output=True, text=True)
        if done.returncode != 0:
            raise BuildError(f"{compiler} {flag} failed: install a working compiler or set CC and CXX")
        line = (done.stdout.splitlines() or [""])[0].strip()
        # gcc says the name it was called by: `cc` and `gcc` are one compiler.
        words.append(line.removeprefix(f"{Path(compiler).name} "))
    return " ".join(words)

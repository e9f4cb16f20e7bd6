"""Find the tools that a build needs, and say who the compiler is."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ... import extras
from ...errors import BuildError

# Module of the package index that carries a program, and its attribute with the folder.
_CARRIED = {"cmake": ("cmake", "CMAKE_BIN_DIR"), "ninja": ("ninja", "BIN_DIR")}
# What binds and checks a build once it is compiled: the module, and the package that has it.
_MODULES = {"cffi": "cffi", "pycparser": "pycparser", "elftools": "pyelftools"}


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


def find_program(name: str) -> str | None:
    """Return the path of a program from the package index, beside our Python, or on PATH."""
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
    return shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))


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
    """Find the compilers and what the extra `build` brings; BuildError names all that is missing of it."""
    compilers = find_compilers()
    programs = {name: path for name in _CARRIED if (path := find_program(name))}
    lacking = [name for name in _CARRIED if name not in programs]
    lacking += [name for module, name in _MODULES.items() if importlib.util.find_spec(module) is None]
    if lacking:
        raise BuildError(f"building needs {', '.join(lacking)}: {extras.install('build')}")
    launcher = shutil.which("ccache") or shutil.which("sccache")
    return Toolchain(compilers, programs["cmake"], programs["ninja"], launcher)


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

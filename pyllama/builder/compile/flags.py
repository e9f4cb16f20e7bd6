"""Compiler flags as CMake wants them in `CMAKE_<language>_FLAGS`: words of a shell's command line.

CMake and Ninja hand that text to the shell as it is, so a folder's name with a space must be quoted in it.
nvcc puts what it passes on into command lines of its own, and splits it at commas: quoted once more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_PLAIN = re.compile(r"[\w@%+=:./-]+", re.ASCII)


def prefix_maps(*folders: Path) -> list[str]:
    """Return the flags by which no folder's name gets into what is compiled; the first that fits wins."""
    return [f"-ffile-prefix-map={folder.as_posix()}=." for folder in folders]


def quoted(word: str) -> str:
    """Return one word of a command line; double quotes, which sh and Windows both know, where need be."""
    return word if _PLAIN.fullmatch(word) else '"' + re.sub(r'([\\"$`])', r"\\\1", word) + '"'


def line(words: Iterable[str], before: str = "") -> str:
    """Return words as a command line, behind what the user wrote as one."""
    return " ".join(part for part in (before.strip(), *map(quoted, words)) if part)


def nvcc_line(host: Iterable[str], libraries: Iterable[str] = ()) -> str:
    """Return nvcc's command line: flags for its host compiler, and folders of libraries to link with."""
    folders = [f"-L{quoted(folder)}" for folder in libraries]
    return line([*folders, *(f"-Xcompiler={quoted(flag)}" for flag in host)])

"""Put a feature's new folder in the place of the old one; a killed process leaves one of them.

The new folder is written as `.<name>.tmp`, and is `.<name>.new` once it is whole. The old one
steps aside as `.<name>.old`. `recover` finishes what was begun.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from .session import step


def recover(folder: Path) -> None:
    """Finish, or take back, a replacement that was interrupted."""
    new, old = _beside(folder, "new"), _beside(folder, "old")
    if not folder.exists():
        if new.exists():
            os.rename(new, folder)
        elif old.exists():
            os.rename(old, folder)
    for rest in (_beside(folder, "tmp"), new, old):
        shutil.rmtree(rest, ignore_errors=True)


def recover_all(series: Path) -> None:
    """Do so for every feature of a series."""
    for rest in sorted((*series.glob(".*.tmp"), *series.glob(".*.new"), *series.glob(".*.old"))):
        if rest.is_dir():
            recover(rest.with_name(rest.name[1:-4]))


def replace(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` change a copy of `folder`, then put the copy in its place."""
    recover(folder)
    fresh, new, old = (_beside(folder, word) for word in ("tmp", "new", "old"))
    try:
        if folder.exists():
            shutil.copytree(folder, fresh, symlinks=True)
        else:
            fresh.mkdir(parents=True)
        step("copied")
        write(fresh)
        step("written")
        os.rename(fresh, new)
        step("complete")
        if folder.exists():
            os.rename(folder, old)
            step("aside")
        os.rename(new, folder)
        step("in place")
    finally:
        recover(folder)


def _beside(folder: Path, word: str) -> Path:
    return folder.with_name(f".{folder.name}.{word}")

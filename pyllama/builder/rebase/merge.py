"""3-way merges of whole files, by git and without a repository."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..git import Git
from ..stack.diffs import raw


@dataclass(frozen=True)
class Merge:
    """The file with both sides' changes; where they conflict, with the hook's."""

    data: bytes
    clean: bool


def merge(git: Git, base: bytes, theirs: bytes, ours: bytes) -> Merge:
    """Merge what a hook makes of `base` (`theirs`) into upstream's new file (`ours`).

    A binary file conflicts.
    """
    with tempfile.TemporaryDirectory(prefix="pyllama-merge-") as folder:
        places = [str(Path(folder) / name) for name in ("ours", "base", "theirs")]
        for place, data in zip(places, (ours, base, theirs), strict=True):
            Path(place).write_bytes(data)
        done = git.run("merge-file", "-p", "--diff3", *places, check=False)
        if done.code == 0:
            return Merge(raw(done.out), True)
        if done.code >= 128:  # a binary file
            return Merge(theirs, False)
        return Merge(raw(git.run("merge-file", "-p", "--theirs", *places).out), False)

"""What a rebase found, written to a scratch object store, and git's own word on it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..git import Git, names
from .layout import Spot
from .text import Text


def accepts(git: Git, path: str, text: Text, spots: Sequence[Spot]) -> bool:
    """Ask git whether hunks apply, without fuzz or merge, to a file; the index of `git` is used up."""
    git.run("read-tree", "--empty")
    _stage(git, {path: text}, {})
    return git.run("apply", "--cached", "--check", stdin=_patch(path, spots), check=False).code == 0


def write(git: Git, tree: str, files: Mapping[str, Text | None], modes: Mapping[str, str]) -> str:
    """Return the id of a tree with other files; None takes one out. The index of `git` is used up."""
    git.run("read-tree", tree)
    _stage(git, files, modes)
    return git.run("write-tree").out.strip()


def holds(git: Git, files: Mapping[str, Text | None]) -> bool:
    """Say whether the index has exactly these bytes; None is a file that is not there."""
    rows = names(git.run("ls-files", "-s", "-z", "--", *(f":(literal,top){path}" for path in files)).out)
    found = {path: words.split()[1] for words, _, path in (row.partition("\t") for row in rows)}
    return found == {path: text.blob for path, text in files.items() if text is not None}


def _stage(git: Git, files: Mapping[str, Text | None], modes: Mapping[str, str]) -> None:
    there = {path: text for path, text in files.items() if text is not None}
    with tempfile.TemporaryDirectory(prefix="pyllama-files-") as folder:
        places = [Path(folder) / str(number) for number in range(len(there))]
        for place, text in zip(places, there.values(), strict=True):
            place.write_bytes(text.data)
        listing = "".join(f"{place}\n" for place in places).encode()
        blobs = git.run("hash-object", "-w", "--no-filters", "--stdin-paths", stdin=listing).out.split()
    rows = [
        *(f"0 {'0' * 40}\t{path}\0" for path, text in files.items() if text is None),
        *(f"{modes.get(path, '100644')} {blob}\t{path}\0" for path, blob in zip(there, blobs, strict=True)),
    ]
    git.run("update-index", "--add", "-z", "--index-info", stdin="".join(rows).encode())


def _patch(path: str, spots: Iterable[Spot]) -> bytes:
    parts = [f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n"]
    for spot in spots:
        piece = spot.piece
        parts.append(f"@@ -{piece.old},{len(piece.before)} +{piece.new},{len(piece.after)} @@\n")
        for sign, line in piece.signed:
            parts.append(
                sign + line if line.endswith("\n") else f"{sign}{line}\n\\ No newline at end of file\n"
            )
    return "".join(parts).encode("utf-8", "surrogateescape")

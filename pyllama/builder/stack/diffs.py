"""Diffs in the one form in which hooks are kept and exports are written."""

from __future__ import annotations

from collections.abc import Sequence

from ..git import Git

FORMAT = (
    "--full-index",
    "--binary",
    "--no-renames",
    "--no-color",
    "--no-ext-diff",
    "--src-prefix=a/",
    "--dst-prefix=b/",
)


def diff(repo: Git, before: str, after: str, paths: Sequence[str] = ()) -> bytes:
    """Return the diff between two trees or commits, of `paths` only when any are given."""
    pathspec = ("--", *(f":(literal,top){path}" for path in paths)) if paths else ()
    return raw(repo.run("diff", *FORMAT, before, after, *pathspec).out)


def raw(text: str) -> bytes:
    """Return git's output as the bytes that it was."""
    return text.encode("utf-8", "surrogateescape")

"""Hooks as diffs: whole, with full blob ids, and no larger than they need to be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from ...errors import PatchError
from ..git import Git
from ..stack.hooks import Hook, Hunk, parse
from .finding import Finding, Place

_ADDED_LIMIT = 30
_CONTEXT = 3
_LINE = re.compile(r", line (\d+): (.*)", re.DOTALL)


def read(place: Place, data: bytes) -> tuple[Hook | None, Finding | None]:
    """Parse a hook; when it can't be, return the finding that says why."""
    try:
        return parse(place.file.partition("/")[2], data, place.file), None
    except PatchError as error:
        match = _LINE.search(str(error))
        message = match[2] if match else str(error).removeprefix(f"{place.file} ")
        return None, place.error("hook", message, int(match[1]) if match else 0)


def hunk_sizes(place: Place, data: bytes, git: Git) -> Iterator[Finding]:
    """Find hunks whose header counts too few lines: git cuts them short and says nothing (T7)."""
    counted = git.run("apply", "--numstat", "-z", "-", stdin=data, check=False)
    recounted = git.run("apply", "--recount", "--numstat", "-z", "-", stdin=data, check=False)
    if counted.code or recounted.code:
        yield place.error("hunk-size", "git can't read the diff: write it anew with git diff")
    elif counted.out != recounted.out:
        yield place.error(
            "hunk-size", "a hunk header counts other lines than follow: write it anew with git diff"
        )


def check(place: Place, hook: Hook) -> Iterator[Finding]:
    """Check blob ids, and warn of what a hook touches without need."""
    lines = hook.data.decode("utf-8").split("\n")
    for change in hook.changes:
        at = lines.index(f"diff --git a/{change.path} b/{change.path}") + 1
        if len(change.old_blob) != 40 or len(change.new_blob) != 40:
            yield place.error(
                "full-index", f"{change.path} has no full index line: use git diff --full-index", at
            )
        for hunk in change.hunks:
            at = next(number for number in range(at, len(lines)) if lines[number].startswith("@@ ")) + 1
            yield from _needless(place, hunk, at)


def added_lines(hook: Hook) -> Iterator[tuple[int, str]]:
    """Yield what a hook adds, with the number of the line in the hook."""
    inside = False
    for number, line in enumerate(hook.data.decode("utf-8").split("\n"), 1):
        if line.startswith("diff --git "):
            inside = False
        elif line.startswith("@@ "):
            inside = True
        elif inside and line.startswith("+"):
            yield number, line[1:]


def _needless(place: Place, hunk: Hunk, line: int) -> Iterator[Finding]:
    signs = [text[:1] or " " for text in hunk.lines if text[:1] != "\\"]
    changed = [number for number, sign in enumerate(signs) if sign in "+-"]
    if changed[0] > _CONTEXT or len(signs) - 1 - changed[-1] > _CONTEXT:
        yield place.warning(
            "context", f"the hunk has more than {_CONTEXT} lines of context on one side", line
        )
    if ["".join(text.split()) for text in hunk.removed] == ["".join(text.split()) for text in hunk.added]:
        yield place.warning("white-space", "the hunk changes nothing but white space", line)
    elif again := sorted({text for text in hunk.removed if text.strip()} & set(hunk.added)):
        yield place.warning("moved", f"the hunk removes and adds the same line: {again[0].strip()!r}", line)
    if len(hunk.added) > _ADDED_LIMIT:
        count = len(hunk.added)
        yield place.warning("size", f"the hunk adds {count} lines: new code belongs in files/", line)
    after = [text for text in hunk.lines if text[:1] not in ("\\", "-")]
    doubled = (
        a for a, b in pairwise(after) if "+" in (a[:1], b[:1]) and not a[1:].strip() and not b[1:].strip()
    )
    if any(True for _ in doubled):
        yield place.warning("blank-lines", "the hunk adds a blank line beside a blank line", line)

"""Hooks, read strictly: what a diff touches is known before git sees it.

git is lenient: it skips what it doesn't know, and a hunk whose header counts too few lines is
silently cut short. Here every line must be accounted for, and what git itself makes of the
same bytes (`numstat`) is compared with what was read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NoReturn

from ...errors import PatchError

SIZE_LIMIT = 1 << 20
"""The largest hook, in bytes."""

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@(?: .*)?")
_INDEX = re.compile(r"index ([0-9a-f]+)\.\.([0-9a-f]+)(?: (\d{6}))?")
_ANEW = ": write the hook anew with git diff"
_MODES = ("100644", "100755")
_REFUSED = (
    ("old mode", "changes a file mode"),
    ("new mode", "changes a file mode"),
    ("rename ", "renames a file"),
    ("copy ", "copies a file"),
    ("similarity ", "renames a file"),
    ("dissimilarity ", "rewrites a file"),
    ("GIT binary patch", "holds a binary hunk"),
    ("Binary files ", "holds a binary hunk"),
)


@dataclass(frozen=True)
class Hunk:
    """One place of a file that a hook changes."""

    old_start: int
    """Line of the old file at which it begins, counted from 1; 0 when the old file is empty."""
    new_start: int
    lines: tuple[str, ...]
    """Each with its sign, without line feed; one that begins with a backslash belongs to the one above."""

    @property
    def before(self) -> tuple[str, ...]:
        """The lines that must be there: context and what is removed."""
        return tuple(line[1:] for line in self.lines if line[:1] in ("", " ", "-"))

    @property
    def after(self) -> tuple[str, ...]:
        """The lines that are there afterwards: context and what is added."""
        return tuple(line[1:] for line in self.lines if line[:1] in ("", " ", "+"))

    @property
    def added(self) -> tuple[str, ...]:
        """The lines that are added."""
        return tuple(line[1:] for line in self.lines if line[:1] == "+")

    @property
    def removed(self) -> tuple[str, ...]:
        """The lines that are removed."""
        return tuple(line[1:] for line in self.lines if line[:1] == "-")


@dataclass(frozen=True)
class Change:
    """What a hook does to one file."""

    path: str
    kind: Literal["modify", "create", "delete"]
    hunks: tuple[Hunk, ...]
    old_blob: str = ""
    """git's id of the file's content before, as far as the hook gives it; empty when it does not."""
    new_blob: str = ""

    @property
    def added(self) -> int:
        """Number of lines that are added."""
        return sum(len(hunk.added) for hunk in self.hunks)

    @property
    def removed(self) -> int:
        """Number of lines that are removed."""
        return sum(len(hunk.removed) for hunk in self.hunks)


@dataclass(frozen=True)
class Hook:
    """One diff of a feature: its name below the feature's folder, and its bytes."""

    name: str
    data: bytes
    changes: tuple[Change, ...]

    @property
    def numstat(self) -> str:
        """What `git apply --numstat -z` must print for this hook."""
        return "".join(f"{c.added}\t{c.removed}\t{c.path}\0" for c in self.changes)

    @property
    def lead(self) -> bytes:
        """What stands before the first diff, words for the reader."""
        if self.data.startswith(b"diff --git "):
            return b""
        return self.data[: self.data.index(b"\ndiff --git ") + 1]

    def same_as(self, other: Hook) -> bool:
        """Say whether the same lines change in the same surroundings, wherever in the files that is."""
        return self._content() == other._content()

    def _content(self) -> list[tuple[object, ...]]:
        return sorted(
            (change.path, change.kind, tuple(hunk.lines for hunk in change.hunks)) for change in self.changes
        )


def path_fault(path: str) -> str | None:
    """Say why a path can't be a file of a tree, or None when it can."""
    parts = path.split("/")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "is an absolute path"
    if ".." in parts:
        return "leaves the tree"
    if "" in parts or "." in parts or "\\" in path or not path.isprintable():
        return "is not a plain path"
    if any(re.fullmatch(r"\.git|git~\d+", part.casefold().split(":")[0].rstrip(". ")) for part in parts):
        return "is a place of git's own"
    return None


def parse(name: str, data: bytes, where: str) -> Hook:
    """Read a diff; `where` names it in errors. Anything that is not a plain text diff is refused."""
    if len(data) > SIZE_LIMIT:
        raise PatchError(f"{where} is larger than {SIZE_LIMIT >> 20} MiB: keep new code in files/")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PatchError(f"{where} is not UTF-8 at byte {error.start}: save it as UTF-8") from None
    return Hook(name, data, tuple(_Reader(text, where).changes()))


class _Reader:
    def __init__(self, text: str, where: str) -> None:
        self.lines = text.split("\n")
        self.where = where
        self.at = 0
        if self.lines.pop() != "":
            self.fail("does not end with a line feed, so it may have been cut short", len(self.lines))
        for number, line in enumerate(self.lines, 1):
            if line.endswith("\r") and line.startswith(("diff --git ", "@@ ")):
                self.fail("has CRLF line ends: save it with LF", number)

    def fail(self, what: str, line: int | None = None) -> NoReturn:
        number = self.at + 1 if line is None else line
        raise PatchError(f"{self.where}, line {number}: {what}")

    def peek(self) -> str | None:
        return self.lines[self.at] if self.at < len(self.lines) else None

    def changes(self) -> list[Change]:
        while (line := self.peek()) is not None and not line.startswith("diff --git "):
            if line.startswith(("--- ", "+++ ", "@@ ", "Index: ")):
                self.fail("a change must begin with a `diff --git` line")
            self.at += 1
        found: list[Change] = []
        while self.peek() is not None:
            found.append(self.change())
        if not found:
            self.fail("the hook changes nothing", 1)
        paths = [change.path for change in found]
        for path in paths:
            if paths.count(path) > 1:
                self.fail(f"{path} is changed in two places of one hook: make it one", 1)
        return found

    def change(self) -> Change:
        path = self.path()
        kind: Literal["modify", "create", "delete"] = "modify"
        blobs = ("", "")
        while (line := self.peek()) is not None and not line.startswith("--- "):
            mode: str | None = None
            if line.startswith("new file mode "):
                kind, mode = "create", line[14:]
            elif line.startswith("deleted file mode "):
                kind, mode = "delete", line[18:]
            elif match := _INDEX.fullmatch(line):
                blobs, mode = (match[1], match[2]), match[3]
            else:
                for start, what in _REFUSED:
                    if line.startswith(start):
                        self.fail(f"{what} ({path}), which a hook may not")
                if line.startswith("diff --git "):
                    break
                self.fail(f"{line[:60]!r} is not part of a diff")
            if mode == "120000":
                self.fail(f"{path} is a symbolic link, which a hook may not touch")
            if mode == "160000":
                self.fail(f"{path} is a submodule, which a hook may not touch")
            if mode is not None and mode not in _MODES:
                self.fail(f"{mode} is not the mode of a plain file ({path})")
            self.at += 1
        self.expect("--- ", "/dev/null" if kind == "create" else f"a/{path}", path)
        self.expect("+++ ", "/dev/null" if kind == "delete" else f"b/{path}", path)
        hunks: list[Hunk] = []
        while (line := self.peek()) is not None and line.startswith("@@ "):
            at = self.at + 1
            hunks.append(self.hunk(line, len(hunks) + 1))
            if kind == "modify" and not hunks[-1].before:
                self.fail(f"the hunk has no line of context, so git would add it at the end of {path}", at)
        if not hunks:
            self.fail(f"{path} has no hunk: the hook changes nothing there")
        line = self.peek()
        if line is not None and not line.startswith("diff --git "):
            self.fail(
                f"the hunk above counts fewer lines than follow ({path}), so git would cut it short{_ANEW}"
            )
        return Change(path, kind, tuple(hunks), *blobs)

    def path(self) -> str:
        line = self.lines[self.at][len("diff --git ") :]
        path = line[2 : 2 + (len(line) - 5) // 2]
        if line != f"a/{path} b/{path}":
            self.fail("a `diff --git` line must give one name twice, as a/NAME and b/NAME, unquoted")
        fault = path_fault(path)
        if fault:
            self.fail(f"{path!r} {fault}, which a hook may not touch")
        self.at += 1
        return path

    def expect(self, start: str, name: str, path: str) -> None:
        line = self.peek()
        if line is None or line.startswith("diff --git "):
            self.fail(f"{path} has no hunk: the hook changes nothing there")
        if not line.startswith(start) or line[4:].removesuffix("\t") != name:
            self.fail(f"`{start}{name}` is expected here ({path})")
        self.at += 1

    def hunk(self, header: str, number: int) -> Hunk:
        match = _HUNK.fullmatch(header)
        if match is None:
            self.fail("this hunk header can't be read")
        old, new = (1 if count is None else int(count) for count in (match[2], match[4]))
        start = self.at + 1
        self.at += 1
        before: list[str] = []
        after: list[str] = []
        while old > 0 or new > 0:
            line = self.peek()
            sign = "?" if line is None else line[:1] or " "
            if line is None or sign not in " +-\\":
                self.fail(f"hunk {number} counts more lines than follow{_ANEW}", start)
            self.at += 1
            if sign == "\\":
                self.no_newline(before, after)
                continue
            if sign in " -":
                old -= 1
                before.append(line[1:])
            if sign in " +":
                new -= 1
                after.append(line[1:])
        if old < 0 or new < 0:
            self.fail(f"hunk {number} counts fewer lines than follow{_ANEW}", start)
        if (line := self.peek()) is not None and line.startswith("\\"):
            self.at += 1
            self.no_newline(before, after)
        if before == after:
            self.fail(f"hunk {number} changes nothing", start)
        return Hunk(int(match[1]), int(match[3]), tuple(self.lines[start : self.at]))

    def no_newline(self, before: list[str], after: list[str]) -> None:
        sign = self.lines[self.at - 2][:1]
        if sign != "+":
            before.append("\\")
        if sign != "-":
            after.append("\\")

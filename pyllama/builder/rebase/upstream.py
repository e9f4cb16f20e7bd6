"""Two pristine trees of upstream, the pin's and another one, and what lies between them.

Everything is read out of an object store; whole batches of files come from one process.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..git import names
from ..tree import TreeStore
from .text import Text
from .tokens import by_line, language

_HEADERS = (":(glob)**/include/**/*.h", ":(glob)tools/mtmd/mtmd*.h", ":(exclude)vendor")
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_INDEX = re.compile(r"index ([0-9a-f]{40})\.\.([0-9a-f]{40})")


@dataclass(frozen=True)
class Entry:
    """A file of a tree."""

    mode: str
    blob: str

    @property
    def plain(self) -> bool:
        """Whether it is a file, not a link."""
        return self.mode.startswith("100")


@dataclass(frozen=True)
class Changes:
    """What upstream changed in one file."""

    ranges: tuple[tuple[int, int, int, int], ...] = ()
    """First line and number of lines, before and after; an empty side begins after that line."""

    @cached_property
    def added(self) -> frozenset[int]:
        """Lines of the new file, counted from 1, that are new or not as they were."""
        return frozenset(line for _, _, new, count in self.ranges for line in range(new, new + count))

    def keeps(self, line: int) -> bool:
        """Say whether a line of the old file is still there, as it was."""
        return not any(old <= line < old + count for old, count, _, _ in self.ranges)

    def to_new(self, line: int) -> int:
        """Return where a line of the old file is now, or where it was."""
        at = bisect_right(self.ranges, line, key=lambda r: r[0] if r[1] else r[0] + 1) - 1
        if at < 0:
            return line
        old, old_count, new, new_count = self.ranges[at]
        if line < old + old_count:
            return new + min(line - old, max(new_count - 1, 0))
        after_old = old + old_count if old_count else old + 1
        after_new = new + new_count if new_count else new + 1
        return after_new + line - after_old


class Upstream:
    """The pin's tree and another one; `paths` are the files that will be asked for."""

    def __init__(self, store: TreeStore, old: str, new: str, paths: Iterable[str]) -> None:
        self._git = store.repo
        self.old_tree, self.new_tree = old, new
        self.old = self._entries(old)
        self.new = self._entries(new)
        self._paths = tuple(dict.fromkeys(paths))
        self._texts: dict[str, Text] = {}
        self._changed: dict[str, dict[str, str]] = {}
        self._read(e.blob for tree in (self.old, self.new) for p in self._paths if (e := tree.get(p)))

    def old_text(self, path: str) -> Text | None:
        """Return a file of the pin's tree; None when there is none, or a link."""
        return self._text(self.old.get(path))

    def new_text(self, path: str) -> Text | None:
        """Return a file of the other tree; None when there is none, or a link."""
        return self._text(self.new.get(path))

    def place(self, path: str) -> str | None:
        """Return the name that a file of the pin's tree has in the other one, or None when it is gone."""
        return path if path in self.new or path not in self.old else self.renames.get(path)

    def changes(self, path: str) -> Changes:
        """Return what upstream did to a file of the pin's tree, under whatever name it goes now."""
        now = self.place(path)
        old, new = self.old.get(path), self.new.get(now) if now is not None else None
        if new is None or (old is not None and old.blob == new.blob):
            return Changes()
        if old is None:
            text = self._text(new)
            return Changes(((0, 0, 1, len(text.lines)),) if text else ())
        found = self._diffs.get((old.blob, new.blob))
        if found is None:
            found = self._diff(old.blob, new.blob).get((old.blob, new.blob), Changes())
            self._diffs[old.blob, new.blob] = found
        return found

    @cached_property
    def renames(self) -> dict[str, str]:
        """New names by old ones, as git guesses them from what the files hold."""
        out = self._git.run(
            *("diff", "--find-renames", "-l0", "--diff-filter=R", "--name-status", "-z"),
            *(self.old_tree, self.new_tree),
        ).out
        row = names(out)
        return dict(zip(row[1::3], row[2::3], strict=True))

    def files_with(self, lines: Sequence[str], like: str) -> list[str]:
        """Return the files that upstream added or changed and that hold all of these pieces of lines.

        Only files of the same language as `like` are looked at, and not that one itself.
        """
        kind = language(like)
        if kind not in self._changed:
            rows = {
                path: entry.blob
                for path, entry in self.new.items()
                if entry.plain and language(path) == kind and self.old.get(path) != entry
            }
            self._read(rows.values())
            self._changed[kind] = rows
        return [
            path
            for path, blob in self._changed[kind].items()
            if path != like and all(line in self._texts[blob].text for line in lines)
        ]

    def declared(self, tree: str, wanted: Sequence[str]) -> dict[str, str]:
        """Return those functions and macros that a tree's public headers declare, each with its header."""
        if not wanted:
            return {}
        entries = self.new if tree == self.new_tree else self.old
        words = [word for name in wanted for word in ("-e", name)]
        done = self._git.run("grep", "-l", "-z", "-w", "-F", *words, tree, "--", *_HEADERS, check=False)
        headers = [name.partition(":")[2] for name in names(done.out)]
        self._read(entries[path].blob for path in headers)
        found: dict[str, str] = {}
        for path in headers:
            text = self._text(entries[path])
            for tokens in by_line("".join(text.lines) if text else "", path):
                for name in {*wanted}.intersection(tokens):
                    at = tokens.index(name)
                    if tokens[at + 1 : at + 2] == ("(",) or (tokens[:2] == ("#", "define") and at == 2):
                        found.setdefault(name, path)
        return found

    @cached_property
    def _diffs(self) -> dict[tuple[str, str], Changes]:
        return self._diff(self.old_tree, self.new_tree, *(f":(literal,top){path}" for path in self._paths))

    def _diff(self, old: str, new: str, *paths: str) -> dict[tuple[str, str], Changes]:
        done = self._git.run(
            "diff", "-U0", "--no-renames", "--no-color", "--full-index", old, new, "--", *paths
        )
        found: dict[tuple[str, str], list[tuple[int, int, int, int]]] = {}
        ranges: list[tuple[int, int, int, int]] = []
        for line in done.out.split("\n"):
            if match := _INDEX.match(line):
                ranges = found.setdefault((match[1], match[2]), [])
            elif match := _HUNK.match(line):
                old_count, new_count = (1 if n is None else int(n) for n in (match[2], match[4]))
                ranges.append((int(match[1]), old_count, int(match[3]), new_count))
        return {blobs: Changes(tuple(rows)) for blobs, rows in found.items()}

    def _entries(self, tree: str) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for row in names(self._git.run("ls-tree", "-r", "-z", tree).out):
            words, _, path = row.partition("\t")
            mode, _, blob = words.split()
            found[path] = Entry(mode, blob)
        return found

    def _text(self, entry: Entry | None) -> Text | None:
        if entry is None or not entry.plain:
            return None
        self._read((entry.blob,))
        return self._texts[entry.blob]

    def _read(self, blobs: Iterable[str]) -> None:
        missing = [blob for blob in dict.fromkeys(blobs) if blob not in self._texts]
        if not missing:
            return
        done = self._git.run("cat-file", "--batch", stdin="".join(f"{blob}\n" for blob in missing).encode())
        data, at = done.out.encode("utf-8", "surrogateescape"), 0
        for blob in missing:
            end = data.index(b"\n", at)
            size = int(data[at:end].split()[2])
            self._texts[blob] = Text.of(data[end + 1 : end + 1 + size])
            at = end + size + 2

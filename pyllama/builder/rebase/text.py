"""Files as lines that remember where they come from, and hunks placed in them as git places them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property

from ..stack.hooks import Hunk


@dataclass(frozen=True)
class Text:
    """A file: its lines, each with its line feed, and the number that each has in the pristine file.

    Lines that no pristine file has, but a hook, are of origin 0.
    """

    lines: tuple[str, ...]
    origin: tuple[int, ...]

    @staticmethod
    def of(data: bytes) -> Text:
        """Return a pristine file."""
        lines = _split(data.decode("utf-8", "surrogateescape"))
        return Text(lines, tuple(range(1, len(lines) + 1)))

    @staticmethod
    def new(lines: Sequence[str]) -> Text:
        """Return a file that a feature brings."""
        return Text(tuple(lines), (0,) * len(lines))

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.lines)

    @property
    def data(self) -> bytes:
        """The file's bytes."""
        return self.text.encode("utf-8", "surrogateescape")

    @property
    def blob(self) -> str:
        """The id that git gives to these bytes."""
        data = self.data
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()

    def with_piece(self, piece: Piece, at: int) -> Text:
        """Return the file with a piece applied whose first line is at index `at`."""
        lines: list[str] = []
        origin: list[int] = []
        here = at
        for sign, line in piece.signed:
            if sign == "+":
                lines.append(line)
                origin.append(0)
                continue
            if sign == " ":
                lines.append(line)
                origin.append(self.origin[here])
            here += 1
        return Text(
            (*self.lines[:at], *lines, *self.lines[here:]), (*self.origin[:at], *origin, *self.origin[here:])
        )

    def pristine(self, at: int) -> int:
        """Return the number that the line at an index, or the next one, has in the pristine file."""
        below = next((number for number in self.origin[at:] if number), None)
        return below or next((number for number in reversed(self.origin[:at]) if number), 0) + 1

    def fresh(self, other: Text) -> list[str]:
        """Return the lines that `other` has beside those that are here."""
        rows = edits(self.lines, other.lines)
        return [line for tag, _, _, j, end in rows if tag != "equal" for line in other.lines[j:end]]

    def became(self, data: bytes) -> Text:
        """Return the file that these bytes are now; lines that are still there keep their origin."""
        lines = _split(data.decode("utf-8", "surrogateescape"))
        origin = [0] * len(lines)
        for tag, i, i_end, j, j_end in edits(self.lines, lines):
            if tag == "equal":
                origin[j:j_end] = self.origin[i:i_end]
        return Text(lines, tuple(origin))

    def lost_to(self, other: Text) -> list[tuple[int, str]]:
        """Return origin and text of the pristine lines that are here and not in `other`."""
        kept = set(other.origin)
        return [
            (number, line)
            for number, line in zip(self.origin, self.lines, strict=True)
            if number and number not in kept
        ]


@dataclass(frozen=True)
class Piece:
    """A hunk with its lines whole, so that a missing line feed at the end of a file counts."""

    signed: tuple[tuple[str, str], ...]
    """Sign and line, in order."""
    old: int
    """Line at which git looks for it, counted from 1, before; 0 in an empty file."""
    new: int

    @staticmethod
    def of(hunk: Hunk) -> Piece:
        """Read a hunk."""
        signed: list[tuple[str, str]] = []
        for line in hunk.lines:
            if line.startswith("\\"):
                sign, text = signed[-1]
                signed[-1] = (sign, text.removesuffix("\n"))
            else:
                signed.append((line[:1] or " ", line[1:] + "\n"))
        return Piece(tuple(signed), hunk.old_start, hunk.new_start)

    @cached_property
    def before(self) -> tuple[str, ...]:
        """The lines that must be there."""
        return tuple(line for sign, line in self.signed if sign != "+")

    @cached_property
    def after(self) -> tuple[str, ...]:
        """The lines that are there afterwards."""
        return tuple(line for sign, line in self.signed if sign != "-")

    @property
    def added(self) -> tuple[str, ...]:
        """The lines that it adds."""
        return tuple(line for sign, line in self.signed if sign == "+")

    @property
    def removed(self) -> tuple[str, ...]:
        """The lines that it removes."""
        return tuple(line for sign, line in self.signed if sign == "-")

    @property
    def growth(self) -> int:
        """By how many lines it makes a file longer."""
        return len(self.after) - len(self.before)

    @property
    def lead(self) -> int:
        """How many lines of context come first."""
        return next((i for i, (sign, _) in enumerate(self.signed) if sign != " "), len(self.signed))

    @property
    def reverse(self) -> Piece:
        """The piece that takes this one back."""
        swap = {"+": "-", "-": "+"}
        return Piece(tuple((swap.get(sign, sign), line) for sign, line in self.signed), self.new, self.old)

    def core(self, context: int) -> tuple[tuple[str, ...], int]:
        """Return the lines that must be there with less context, and how many were cut off above them."""
        signs = [sign for sign, _ in self.signed]
        first = max(self.lead - context, 0)
        tail = next(at for at, sign in enumerate(reversed(signs)) if sign != " ")
        kept = self.signed[first : len(signs) - max(tail - context, 0)]
        return tuple(line for sign, line in kept if sign != "+"), first

    def places(self, lines: Sequence[str], freely: bool = False) -> Iterator[int]:
        """Yield the indexes at which the lines that must be there are.

        A piece of the first line, or without context at its end, only fits the file's begin or end,
        as with git, unless it may be put `freely`.
        """
        block, size = self.before, len(self.before)
        if not block:
            yield from (0,) if not lines else ()
            return
        low, high = 0, len(lines) - size
        if not freely and self.old <= 1:
            high = min(high, 0)
        if not freely and self.signed[-1][0] != " ":
            low = max(low, len(lines) - size)
        at = low
        while at <= high:
            try:
                at = lines.index(block[0], at, high + 1)
            except ValueError:
                return
            if tuple(lines[at : at + size]) == block:
                yield at
            at += 1

    def locate(
        self, lines: Sequence[str], shift: int = 0, taken: Sequence[bool] = (), freely: bool = False
    ) -> int | None:
        """Return the index at which git would apply it, or None; the nearest one, downwards first.

        `shift` is added to where the hunk expects its place. Lines that an earlier hunk of the same
        patch has been applied to are `taken`.
        """
        wanted, size = self.expected + shift, len(self.before)
        fits = (at for at in self.places(lines, freely) if not any(taken[at : at + size]))
        return min(fits, key=lambda at: (abs(at - wanted), at < wanted), default=None)

    @property
    def expected(self) -> int:
        """Index at which git first looks for it."""
        return max(self.new - 1, 0)


def edits(old: Sequence[str], new: Sequence[str]) -> list[tuple[str, int, int, int, int]]:
    """Return how `old` becomes `new`, in the form of difflib's opcodes."""
    head = 0
    shorter = min(len(old), len(new))
    while head < shorter and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < shorter - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    matcher = SequenceMatcher(None, old[head : len(old) - tail], new[head : len(new) - tail], autojunk=False)
    middle = [(tag, i + head, i2 + head, j + head, j2 + head) for tag, i, i2, j, j2 in matcher.get_opcodes()]
    ends = [
        ("equal", 0, head, 0, head),
        *middle,
        ("equal", len(old) - tail, len(old), len(new) - tail, len(new)),
    ]
    return [edit for edit in ends if edit[1] < edit[2] or edit[3] < edit[4]]


def _split(text: str) -> tuple[str, ...]:
    parts = text.split("\n")
    last = parts.pop()
    return (*(part + "\n" for part in parts), *((last,) if last else ()))

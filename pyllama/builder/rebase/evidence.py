"""Which hunks upstream has by now, although the text may differ.

The stack is taken back from its last hunk to its first: a feature whose lines a later one rewrites
can only be found when the later one is out of the way. What upstream had at the pin already is no
evidence, and each line of upstream's is evidence for one hunk only.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from .layout import Key, Laid, Spot
from .text import Text
from .tokens import Tokens, bare, by_line, counts, language, renamed, renames, runs, significant
from .upstream import Upstream

_BESIDE = 6
"""Lines from the place of a hunk within which a line belongs to it for certain."""
_NEAR = 15
"""Lines from it, for each line that was found, within which it does when the code there was rewritten."""
_PART = 3
"""One in so many lines of a hunk makes a part of it."""
_BROKEN = 6
"""Into so many lines a statement is broken at most."""
_MANY = 3
"""So many lines of a hunk together are its own, wherever they are."""
_AROUND = 3
"""Lines on either side of one that uses a variable in which its old name is no longer used."""


@dataclass(frozen=True)
class Evidence:
    """That upstream has a hunk, or a part of it."""

    whole: bool
    detail: str
    line: int
    """Where, in the new tree's file, counted from 1."""
    path: str


def gather(layout: Mapping[str, Sequence[Laid]], upstream: Upstream) -> dict[Key, Evidence]:
    """Return what upstream has, by hunk."""
    found: dict[Key, Evidence] = {}
    files: dict[str, _File] = {}
    all_laid = [laid for rows in layout.values() for laid in rows]
    for laid in reversed(all_laid):
        path = upstream.place(laid.change.path)
        if laid.change.kind != "modify" or path is None or laid.change.path not in upstream.old:
            continue
        if path not in files:
            text = upstream.new_text(path)
            if text is None:
                continue
            ours = [other for other in all_laid if other.change.path == laid.change.path]
            files[path] = _File(upstream, path, text, ours)
        for spot in reversed(laid.spots):
            evidence = files[path].reversed(laid, spot) or files[path].said(laid, spot)
            if evidence is not None:
                found[spot.key] = evidence
    return found


class _File:
    """One file of the new tree, from which hunks are taken back."""

    def __init__(self, upstream: Upstream, path: str, text: Text, ours: Sequence[Laid]) -> None:
        old_path = ours[0].change.path
        self.path = path
        self.text = text
        self._ours = ours
        self._changes = upstream.changes(old_path)
        self._old = upstream.old_text(old_path)
        self._pristine = text
        self._said: _Said | None = None
        self._used: set[int] = set()
        self._superseded: set[Tokens] = set()

    def reversed(self, laid: Laid, spot: Spot) -> Evidence | None:
        """Take a hunk back that reverses as it is; there must be more of it than there was at the pin.

        Neither the file below the hook nor upstream's own may have as much: an earlier hook can have
        changed a place of upstream's that looks like what this one makes.
        """
        assert self._old is not None
        piece, now, base = spot.piece, self.text.lines, laid.base.lines
        back = piece.reverse
        at = back.locate(now)
        before = max(sum(1 for _ in back.places(lines)) for lines in (base, self._old.lines))
        if at is None or sum(1 for _ in back.places(now)) <= before:
            return None
        end = at + len(back.before)
        apart = [place for place in piece.places(now) if place >= end or place + len(piece.before) <= at]
        if len(apart) >= sum(1 for _ in piece.places(base)):
            return None  # a second copy of the code has it, and the first one still lacks it
        line = self.text.origin[min(at + piece.lead, len(now) - 1)]
        self._used.update(self.text.origin[at : at + len(back.before)])
        self._supersede(piece.removed)
        self.text = self.text.with_piece(back, at)
        return Evidence(True, "it reverses there", line, self.path)

    def said(self, laid: Laid, spot: Spot) -> Evidence | None:
        """Look for the hunk's lines among those that upstream added since."""
        if not self._changes.added:
            return None
        if self._said is None:
            assert self._old is not None
            self._said = _Said(self.path, self._old, self._pristine, self._changes.added)
        ours = self._own_lines(spot)
        wanted = [line for line in ours if line not in self._superseded]
        if ours and not wanted:
            return Evidence(
                True, "upstream has what a later feature makes of it", self._home(laid, spot), self.path
            )
        removed = [t for t in by_line("".join(spot.piece.removed), self.path) if significant(t)]
        home = self._home(laid, spot)
        gone = self._said.gone(removed)
        if not ours:
            after = by_line("".join(spot.piece.after), self.path)
            places = self._said.appeared(after) if removed and gone else ()
            return Evidence(True, "upstream removed the same lines", places[0], self.path) if places else None
        known = {token for tokens in by_line("".join(spot.piece.after), self.path) for token in tokens}
        match = self._said.find(wanted, removed, known, home, self._used)
        lines = sorted(match.values())
        if not match or not self._belongs(spot, {wanted[index] for index in match}, lines, home):
            return None
        if len(match) == len(wanted) and gone:
            self._used.update(lines)
            self._supersede(spot.piece.removed)
            return Evidence(True, "upstream added the same lines", lines[0], self.path)
        if len(match) == len(wanted):
            detail = "upstream added the same lines, but those that the hook removes are still there"
        elif _PART * len(match) >= len(wanted):
            detail = f"upstream added {len(match)} of its {len(wanted)} lines"
        else:
            return None
        return Evidence(False, detail, lines[0], self.path)

    def _own_lines(self, spot: Spot) -> list[Tokens]:
        """Return the lines that say what the hunk is about: not what it only moves or wraps."""
        kept = {bare(t) for t in by_line("".join(spot.piece.removed), self.path)}
        lines = by_line("".join(spot.piece.added), self.path)
        return [tokens for tokens in lines if significant(tokens) and bare(tokens) not in kept]

    def _home(self, laid: Laid, spot: Spot) -> int:
        """Return the line of the new file at which the hunk's place should be."""
        before = laid.base.origin[: spot.at + spot.piece.lead]
        return self._changes.to_new(next((line for line in reversed(before) if line), 1))

    def _belongs(self, spot: Spot, found: set[Tokens], lines: Sequence[int], home: int) -> bool:
        """Say whether the lines are this hunk's, and not another place's that looks alike."""
        far = min(abs(line - home) for line in lines)
        if far > _BESIDE and any(abs(lines[0] - other) < far for other in self._rivals(spot, found)):
            return False
        if len(found) >= _MANY:
            return True
        if spot.piece.locate(self.text.lines) is not None:
            return far <= _BESIDE
        if far <= _NEAR * len(found):
            return True
        assert self._said is not None
        context = by_line("".join(line for sign, line in spot.piece.signed if sign == " "), self.path)
        around = self._said.lines[max(lines[0] - _BESIDE, 0) : lines[-1] + _BESIDE]
        return any(tokens in around for tokens in context if significant(tokens))

    def _rivals(self, spot: Spot, found: set[Tokens]) -> list[int]:
        """Return the homes of the other hunks that add the same lines."""
        spots = [(laid, other) for laid in self._ours for other in laid.spots if other.key != spot.key]
        return [self._home(laid, other) for laid, other in spots if found <= {*self._own_lines(other)}]

    def _supersede(self, removed: Sequence[str]) -> None:
        self._superseded.update(t for t in by_line("".join(removed), self.path) if significant(t))


class _Said:
    """What upstream added to a file: token by token, so that how lines are broken does not matter."""

    def __init__(self, path: str, old: Text, new: Text, added: frozenset[int]) -> None:
        self.lines = by_line("".join(new.lines), path)
        self._code = language(path) == "c"
        self._old_lines = by_line("".join(old.lines), path)
        self._before = counts(self._old_lines)
        self._now = counts(self.lines)
        self._fresh = [
            number
            for number, tokens in enumerate(self.lines, 1)
            if number in added and self._now[tokens] > self._before[tokens]
        ]
        self._stream, self._starts, self._owners = self._join()

    def find(
        self,
        wanted: Sequence[Tokens],
        removed: Sequence[Tokens],
        known: Container[str],
        home: int,
        used: Container[int],
    ) -> dict[int, int]:
        """Return the line at which each wanted line (by its index) is, of those that go together best."""
        places: dict[int, list[int]] = {}
        names: dict[str, str] = {}
        for index, ours in enumerate(wanted):
            exact = self._exact(ours)
            if not exact:
                for line in self._fresh:
                    found = self._near(ours, line, removed, known)
                    if found is not None:
                        exact.append(line)
                        names.update(found)
            places[index] = [line for line in exact if line not in used]
        for first in range(len(wanted)):  # what we broke into lines, upstream may have in one
            for end in range(first + 2, min(first + _BROKEN, len(wanted)) + 1):
                lines = [line for line in self._exact(sum(wanted[first:end], ())) if line not in used]
                for index in range(first, end):
                    places[index] += lines
        for index, ours in enumerate(wanted):
            if not places[index] and names:
                places[index] = [line for line in self._exact(renamed(ours, names)) if line not in used]
        return _together(places, home, 2 * len(wanted) + 15)

    def gone(self, removed: Sequence[Tokens]) -> bool:
        """Say whether there is less of every removed line than there was."""
        return all(self._now[tokens] < max(self._before[tokens], 1) for tokens in removed)

    def appeared(self, block: Sequence[Tokens]) -> list[int]:
        """Return the lines from which on a block of lines is there now, when it was not before."""
        if not any(significant(tokens) for tokens in block) or runs(block, self._old_lines):
            return []
        return [at + 1 for at in runs(block, self.lines)]

    def _near(
        self, ours: Tokens, line: int, removed: Sequence[Tokens], known: Container[str]
    ) -> dict[str, str] | None:
        theirs = self.lines[line - 1]
        if 3 * len({*ours} & {*theirs}) < 2 * len({*ours}):  # far from it, and soon seen
            return None
        found = renames(ours, theirs, removed, known, self._code)
        around = self.lines[max(line - 1 - _AROUND, 0) : line + _AROUND]
        if found and any(old in tokens for old in found for tokens in around):
            return None  # both names are in use there: they are two variables
        return found

    def _exact(self, ours: Tokens) -> list[int]:
        needle = _word(ours)
        found: list[int] = []
        at = self._stream.find(needle)
        while at >= 0:
            line = self._owners[bisect_right(self._starts, at) - 1]
            # a short piece of a longer line may mean something else there
            if len(ours) > 3 or self.lines[line - 1] == ours:
                found.append(line)
            at = self._stream.find(needle, at + 1)
        return found

    def _join(self) -> tuple[str, list[int], list[int]]:
        starts: list[int] = []
        owners: list[int] = []
        parts: list[str] = []
        last = size = 0
        for number in self._fresh:
            if any(self.lines[between - 1] for between in range(last + 1, number)):
                parts.append(" \x02")  # what stands between them is old
                size += 2
            starts.append(size)
            owners.append(number)
            word = _word(self.lines[number - 1])[:-1]
            parts.append(word)
            size += len(word)
            last = number
        return "".join(parts) + " ", starts, owners


def _word(tokens: Tokens) -> str:
    return " " + " ".join(token.replace(" ", "\x01") for token in tokens) + " "


def _together(places: Mapping[int, Sequence[int]], home: int, reach: int) -> dict[int, int]:
    """Choose one line for each index so that most of them are within `reach` of each other."""
    best: dict[int, int] = {}
    score = (0, 0)
    for anchor in sorted({line for lines in places.values() for line in lines}):
        chosen: dict[int, int] = {}
        for index, lines in places.items():
            free = [ln for ln in lines if anchor <= ln <= anchor + reach]
            if free:
                chosen[index] = min(free)
        mine = (len(chosen), -abs(anchor - home))
        if not best or mine > score:
            best, score = chosen, mine
    return best

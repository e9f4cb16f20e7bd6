"""One feature on the new tree, hunk by hunk: as it is, merged, or not at all, and what that would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..git import Git
from ..stack.features import SourceFile
from ..stack.outcomes import Outcome
from .elsewhere import region, search
from .evidence import Evidence
from .layout import Key, Laid, Spot, with_spots
from .losses import left, lost
from .merge import Merge, merge
from .report import Loss, Place
from .text import Text
from .tokens import by_line, significant
from .upstream import Upstream


class Landing:
    """A feature under way; `files` is the rebased tree below it and changes as hunks land."""

    def __init__(
        self,
        upstream: Upstream,
        evidence: Mapping[Key, Evidence],
        files: Mapping[str, Text | None],
        git: Git,
    ) -> None:
        self.files = dict(files)
        self.places: list[Place] = []
        self.losses: list[Loss] = []
        self.carried = True
        """Whether everything that upstream lacks has landed."""
        self.applied: list[tuple[Laid, Text, list[Spot]]] = []
        """The hunks that landed as they are, with the file in which they did."""
        self._upstream = upstream
        self._evidence = evidence
        self._git = git

    def text(self, path: str) -> Text | None:
        """Return a file of the rebased tree."""
        return self.files[path] if path in self.files else self._upstream.new_text(path)

    def add_file(self, file: SourceFile) -> None:
        """Put a file of the feature's own in."""
        self._create(f"files/{file.path}", file.path, 0, Text.new(Text.of(file.data).lines))

    def add(self, laid: Laid) -> None:
        """Put in what a hook does to one file."""
        path, hook = laid.change.path, laid.hook.name
        if laid.change.kind == "create":
            fresh = Text.new([line for spot in laid.spots for line in spot.piece.after])
            self._create(hook, path, 1, fresh)
        elif path not in self._upstream.old and self.text(path) is None:
            self._fail(
                *(
                    self._place(
                        laid,
                        spot,
                        "blocked",
                        f"there is no {path}: the feature that brings it does not go on",
                    )
                    for spot in laid.spots
                )
            )
        elif laid.change.kind == "delete":
            self._delete(laid)
        elif (now := self._upstream.place(path)) is None:
            self._gone(laid)
        else:
            self._modify(laid, now)

    def refuse(self, places: Sequence[Place], why: str) -> None:
        """Take back what was said of some places: git does not put the hook there."""
        refused = [id(place) for place in places]
        self.places = [
            replace(place, outcome="conflict", detail=why, offset=None) if id(place) in refused else place
            for place in self.places
        ]
        self.carried = False

    def _create(self, hook: str, path: str, hunk: int, fresh: Text) -> None:
        there = self.text(path)
        if there is None and not self._taken(path):
            self.files[path] = fresh
            self.places.append(Place(hook, path, hunk, "clean", line=1, offset=0))
        elif there is not None and there.lines == fresh.lines:
            self.places.append(Place(hook, path, hunk, "upstreamed", "upstream has the same file", line=1))
        else:
            what = "with another content" if there is not None else "or a name that is in its way"
            self._fail(Place(hook, path, hunk, "conflict", f"upstream has this file too, {what}", line=1))
            kept = set(fresh.lines)
            for number, line in zip(there.origin, there.lines, strict=True) if there is not None else ():
                if number and line not in kept:
                    self.losses.append(Loss(hook, path, hunk, number, line.rstrip("\n")))

    def _taken(self, path: str) -> bool:
        """Say whether a link or a folder is in the place of a file, or a file in that of its folder."""
        new = self._upstream.new
        above = path.split("/")
        folders = {"/".join(above[:size]) for size in range(1, len(above))}
        return path in new or not folders.isdisjoint(new) or any(name.startswith(path + "/") for name in new)

    def _delete(self, laid: Laid) -> None:
        path, hook, there = laid.change.path, laid.hook.name, self.text(laid.change.path)
        if there is None:
            moved = self._upstream.place(path)
            if moved is None:
                self.places.append(Place(hook, path, 1, "upstreamed", "upstream has deleted it too"))
            else:
                detail = f"the file to delete is {moved} now"
                self._fail(Place(hook, path, 1, "target-moved", detail, moved_to=moved))
        elif there.lines == laid.base.lines:
            self.files[path] = None
            self.places.append(Place(hook, path, 1, "clean", line=1, offset=0))
        else:
            self._lose(laid, path, laid.spots[0], there, Text((), ()))
            self._fail(
                Place(hook, path, 1, "conflict", "upstream changed the file that the hook deletes", line=1)
            )

    def _gone(self, laid: Laid) -> None:
        for spot in laid.spots:
            if not self._elsewhere(laid, spot):
                self._fail(
                    self._place(laid, spot, "target-deleted", f"upstream has deleted {laid.change.path}")
                )

    def _modify(self, laid: Laid, path: str) -> None:
        text = self.text(path)
        if text is None:
            detail = f"{path} is no plain file any more"
            self._fail(*(self._place(laid, spot, "conflict", detail) for spot in laid.spots))
            return
        start, first = text, len(self.places)
        lost = len(self.losses)
        taken = [False] * len(text.lines)
        had: list[Spot] = []  # hunks that `text` has already
        open_: list[Spot] = []
        plain: list[Spot] = []
        shift = 0  # git expects a hunk where it is when all those above it have landed
        for spot in laid.spots:
            evidence = self._evidence.get(spot.key)
            if evidence is not None and evidence.whole:
                self.places.append(self._place(laid, spot, "upstreamed", evidence.detail, evidence.line))
                had.append(spot)
                continue
            piece = spot.piece
            at = piece.locate(text.lines, shift, taken)
            if at is not None:
                after = text.with_piece(piece, at)
                self._land(laid, spot, path, at, text, after)
                taken[at : at + len(piece.before)] = [True] * len(piece.after)
                text = after
                had.append(spot)
                plain.append(spot)
                continue
            merged = self._merged(laid, spot, had, text)
            result = text.became(merged.data) if merged.clean else self._merged_there(laid, spot, text)
            if result is not None:
                how = "by a 3-way merge" if merged.clean else "by a 3-way merge where upstream moved its code"
                self._merge(laid, spot, path, text, result, how)
                text, taken = result, [False] * len(result.lines)
                had.append(spot)
                continue
            shift -= piece.growth
            if evidence is not None or not self._elsewhere(laid, spot):
                self._conflict(laid, spot, path, text, text.became(merged.data))
                open_.append(spot)
        if open_ and len(laid.spots) > 1 and (whole := self._merge_all(laid, start)) is not None:
            text = whole
            for index in range(first, len(self.places)):
                if self.places[index].outcome == "conflict":
                    detail = "merged with the file's other hunks"
                    self.places[index] = replace(self.places[index], outcome="merged", detail=detail)
            del self.losses[lost:]
            self._lose(laid, path, None, start, whole)
            open_ = []
        self.carried = self.carried and not open_
        self.files[path] = text
        if path == laid.change.path:
            self.applied.append((laid, start, plain))
        else:
            self.places[first:] = [self._moved(place, path) for place in self.places[first:]]

    def _land(self, laid: Laid, spot: Spot, path: str, at: int, before: Text, after: Text) -> None:
        offset = at - spot.piece.expected
        added = self._upstream.changes(laid.change.path).added
        here = [number for number in before.origin[at : at + len(spot.piece.before)] if number]
        detail = ""
        copied = here and all(number in added for number in here) and not left(self._upstream, laid, spot)
        if offset and copied:
            detail = "it lands in code that upstream wrote since: see that it is the right place"
        outcome: Outcome = "offset" if offset else "clean"
        place = self._place(laid, spot, outcome, detail, before.pristine(at))
        self.places.append(replace(place, offset=offset))
        self._lose(laid, path, spot, before, after)

    def _merged(self, laid: Laid, spot: Spot, had: Sequence[Spot], text: Text) -> Merge:
        base, theirs = with_spots(laid.base, had), with_spots(laid.base, (*had, spot))
        return merge(self._git, base.data, theirs.data, text.data)

    def _merged_there(self, laid: Laid, spot: Spot, text: Text) -> Text | None:
        """Merge a hunk into the place of the file to which upstream moved its code; None when it did not."""
        path = laid.change.path
        place = region(spot.piece, text.lines, path)
        if place is None:
            return None
        first, last = place
        added = self._upstream.changes(path).added
        here = zip(text.origin[first:last], text.lines[first:last], strict=True)
        if any(number not in added for number, line in here if line in spot.piece.before and line.strip()):
            return None
        sides = (spot.piece.before, spot.piece.after, text.lines[first:last])
        merged = merge(self._git, *(Text.new(lines).data for lines in sides))
        if not merged.clean:
            return None
        before, after = (Text.new(lines).data for lines in (text.lines[:first], text.lines[last:]))
        return text.became(before + merged.data + after)

    def _merge(self, laid: Laid, spot: Spot, path: str, before: Text, after: Text, how: str) -> None:
        """Note a hunk that merges: as a whole, in part, or with nothing left of it."""
        line = _first_difference(before, after)
        missing, whole = (_telling(lines, path) for lines in (before.fresh(after), spot.piece.added))
        if before.lines == after.lines:
            place = self._place(laid, spot, "upstreamed", "a 3-way merge finds nothing left to do")
        elif missing < whole:
            detail = f"upstream has {whole - missing} of its {whole} lines; the rest merges"
            place = self._place(laid, spot, "partly-upstreamed", detail, line)
        else:
            place = self._place(laid, spot, "merged", how, line)
        self.places.append(place)
        self._lose(laid, path, spot, before, after)

    def _conflict(self, laid: Laid, spot: Spot, path: str, before: Text, after: Text) -> None:
        """Note a hunk that can't land; `after` is what taking the hook's side would make of the file."""
        evidence = self._evidence.get(spot.key)
        if evidence is not None:
            self._fail(self._place(laid, spot, "partly-upstreamed", evidence.detail, evidence.line))
        else:
            detail = "upstream changed the lines around it, and a 3-way merge conflicts"
            self._fail(self._place(laid, spot, "conflict", detail, _first_difference(before, after)))
        self._lose(laid, path, spot, before, after)

    def _merge_all(self, laid: Laid, start: Text) -> Text | None:
        """Merge all hunks of the file in one go."""
        had = [s for s in laid.spots if (e := self._evidence.get(s.key)) is not None and e.whole]
        base, theirs = with_spots(laid.base, had), with_spots(laid.base, laid.spots)
        merged = merge(self._git, base.data, theirs.data, start.data)
        return start.became(merged.data) if merged.clean else None

    def _moved(self, place: Place, path: str) -> Place:
        """Say of a hunk whose file was renamed how it fares under the new name."""
        if place.outcome in ("upstreamed", "partly-upstreamed", "target-moved"):
            return replace(place, moved_to=place.moved_to or path)
        how = {
            "clean": "applies there",
            "offset": f"applies there, {place.offset:+} lines away" if place.offset is not None else "",
            "merged": "merges there",
        }.get(place.outcome, "does not apply there")
        return replace(
            place, outcome="target-moved", detail=f"the file is {path} now; the hunk {how}", moved_to=path
        )

    def _elsewhere(self, laid: Laid, spot: Spot) -> bool:
        """Put a hunk into the file that its code was moved to; False when there is none."""
        found = search(self._upstream, laid.change.path, spot)
        if found is None:
            return False
        path, line = found
        text = self.text(path)
        at = spot.piece.locate(text.lines, freely=True) if text is not None else None
        if text is None or at is None:
            self.carried = False
            how = "does not apply there as it is"
        else:
            self._lose(laid, path, spot, text, text.with_piece(spot.piece, at))
            self.files[path] = text.with_piece(spot.piece, at)
            line, how = text.pristine(at), "applies there"
        detail = f"its code is in {path} now; the hunk {how}"
        self.places.append(replace(self._place(laid, spot, "target-moved", detail, line), moved_to=path))
        return True

    def _lose(self, laid: Laid, path: str, spot: Spot | None, before: Text, after: Text) -> None:
        """Note what is lost of upstream's; without `spot`, by all hunks together."""
        self.losses += lost(self._upstream, laid, path, spot, before, after)

    def _fail(self, *places: Place) -> None:
        self.places += places
        self.carried = False

    def _place(self, laid: Laid, spot: Spot, outcome: Outcome, detail: str, line: int | None = None) -> Place:
        return Place(laid.hook.name, laid.change.path, spot.key[3], outcome, detail, line)


def _first_difference(one: Text, other: Text) -> int:
    pairs = zip(one.lines, other.lines, strict=False)
    shorter = min(len(one.lines), len(other.lines))
    return one.pristine(next((at for at, (a, b) in enumerate(pairs) if a != b), shorter))


def _telling(lines: Sequence[str], path: str) -> int:
    """Count the lines that say something."""
    return sum(significant(tokens) for tokens in by_line("".join(lines), path))

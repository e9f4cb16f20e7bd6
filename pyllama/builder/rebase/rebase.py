"""The stack of one pin on another revision, feature by feature, in memory and in scratch objects."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ...errors import PatchError
from ..git import Git
from ..pins import Pin
from ..stack.commit import Commit, commit_stack, describe, write_commit
from ..stack.compose import Composer, composing
from ..stack.features import Feature
from ..stack.outcomes import Outcome, by_lines, worst
from ..tree import TreeStore
from .evidence import gather
from .landing import Landing
from .layout import Laid, lay_out
from .rangediff import range_diff
from .report import FeatureReport, Place, Report
from .revisions import Revision
from .text import Text
from .upstream import Upstream
from .writing import accepts, holds, write

_KIN = 0.5
"""Share of the pin's files that another revision of the same project has at least, as a rule."""
_AS_IT_IS = ("clean", "offset")


def rebase(features: Sequence[Feature], pin: Pin, onto: Revision, store: TreeStore) -> Report:
    """Say how `features`, made for `pin`, fare on another revision; `store` is an overlay that has both.

    Raises PatchError when the features do not apply to the pin itself, and when the revision has
    none of the files that they change.
    """
    start = time.perf_counter()
    served = tuple(feature for feature in features if _missing(feature, pin.name, features) is None)
    commits = commit_stack(pin.name, pin.tree, served, store)
    touched = [change.path for f in served for hook in f.hooks_at(pin.name) for change in hook.changes]
    brought = [file.path for f in served for file in f.files_at(pin.name)]
    upstream = Upstream(store, pin.tree, onto.tree, (*touched, *brought))
    _check_kin(upstream, touched, onto)
    with composing(store, onto.tree, pin.name) as composer, store.scratch_index() as scratch:
        run = _Run(pin.name, served, upstream, composer, scratch)
        rows = tuple(run.add(feature, _missing(feature, pin.name, features)) for feature in features)
    rebased = [Commit(None, write_commit(store, onto.tree, f"llama.cpp: {onto.name}\n", None), onto.tree)]
    for feature, tree in run.trees:
        commit = write_commit(store, tree, describe(feature), rebased[-1].id)
        rebased.append(Commit(feature.name, commit, tree))
    pairs, text = range_diff(store.repo, commits, rebased)
    seconds = time.perf_counter() - start + onto.seconds
    return Report(onto.name, pin.name, onto.tree, rebased[-1].tree, rows, pairs, text, seconds)


class _Run:
    """A stack under way: the new tree as far as it is, and what could not go on."""

    def __init__(
        self, pin: str, served: Sequence[Feature], upstream: Upstream, composer: Composer, scratch: Git
    ) -> None:
        self.trees: list[tuple[Feature, str]] = []
        """The features that go on, each with the tree that it makes."""
        self._pin = pin
        self._upstream = upstream
        self._composer = composer
        self._scratch = scratch
        self._layout = lay_out(served, pin, upstream)
        self._evidence = gather(self._layout, upstream)
        self._files: dict[str, Text | None] = {}
        self._out: set[str] = set()
        names = [name for feature in served for name in _contracted(feature)]
        declared = upstream.declared(upstream.new_tree, names)
        known = upstream.declared(upstream.old_tree, list(declared))
        self._declared = {name: header for name, header in declared.items() if name not in known}

    def add(self, feature: Feature, missing: tuple[Outcome, str] | None) -> FeatureReport:
        """Try one feature; `missing` says why it has no part in the stack at the pin."""
        failed = [name for name in feature.requires if name in self._out]
        if missing is not None:
            report = FeatureReport(feature.name, *missing, carried=False)
        elif feature.at(self._pin).kind == "upstream":
            report = FeatureReport(feature.name, "upstreamed", feature.at(self._pin).reason, carried=False)
        elif failed:
            report = FeatureReport(feature.name, "blocked", f"it requires {', '.join(failed)}", carried=False)
        else:
            report = self._try(feature, self._layout[feature.name])
        if not report.carried and report.outcome != "upstreamed":
            self._out.add(feature.name)
        return report

    def _try(self, feature: Feature, rows: Sequence[Laid]) -> FeatureReport:
        names = _contracted(feature)
        there = [name for name in names if name in self._declared]
        if names and len(there) == len(names):
            detail = "upstream declares " + ", ".join(f"{name} in {self._declared[name]}" for name in there)
            places = [
                Place(laid.hook.name, laid.change.path, spot.key[3], "upstreamed", detail)
                for laid in rows
                for spot in laid.spots
            ]
            return FeatureReport(feature.name, "upstreamed", detail, False, tuple(places))
        landing = Landing(self._upstream, self._evidence, self._files, self._composer.git)
        for file in feature.files_at(self._pin):
            landing.add_file(file)
        for laid in rows:
            landing.add(laid)
        tree = self._write(feature, landing)
        outcome = _outcome(landing.places, partly=bool(there))
        detail = _detail(outcome, landing.places)
        if there:
            detail += f"; upstream declares {', '.join(there)} of its contract"
        if tree is not None and outcome != "upstreamed":
            self.trees.append((feature, tree))
            self._files = landing.files
        carried = tree is not None and outcome != "upstreamed"
        return FeatureReport(
            feature.name, outcome, detail, carried, tuple(landing.places), tuple(landing.losses)
        )

    def _write(self, feature: Feature, landing: Landing) -> str | None:
        """Return the tree with a feature, or None when it can't go on; git has the last word."""
        before = self._composer.tree
        changed = {
            path: text for path, text in landing.files.items() if self._files.get(path, _NONE) is not text
        }
        if all(place.outcome in _AS_IT_IS for place in landing.places):
            why = "git puts it somewhere else"
            try:
                step = self._composer.add(feature)
                if holds(self._composer.git, changed):
                    return step.tree
            except PatchError as error:
                why = str(error)
            self._composer.reset(before)
            landing.refuse(landing.places, why)
            return None
        for laid, text, spots in landing.applied:
            if spots and not accepts(self._scratch, laid.change.path, text, spots):
                numbers = [spot.key[3] for spot in spots]
                wrong = [
                    place
                    for place in landing.places
                    if place.hook == laid.hook.name
                    and place.file == laid.change.path
                    and place.hunk in numbers
                ]
                landing.refuse(wrong, "git does not apply it there")
        if not landing.carried or all(place.outcome == "upstreamed" for place in landing.places):
            return None
        modes = {path: entry.mode for path, entry in self._upstream.new.items() if path in changed}
        modes |= {file.path: file.mode for file in feature.files_at(self._pin)}
        self._composer.reset(write(self._scratch, before, changed, modes))
        return self._composer.tree


_NONE = Text((), ())
"""A file of which nothing is known yet."""


def _contracted(feature: Feature) -> tuple[str, ...]:
    return (*(symbol.name for symbol in feature.contract.symbols), *feature.contract.macros)


def _missing(feature: Feature, pin: str, features: Sequence[Feature]) -> tuple[Outcome, str] | None:
    """Say why a feature has no part in the stack at the pin, or return None."""
    entry = feature.at(pin)
    if entry.kind == "not-applicable":
        return "not-applicable", entry.reason
    by_name = {other.name: other for other in features}
    failed = [
        name
        for name in feature.requires
        if name in by_name and _missing(by_name[name], pin, features) is not None
    ]
    return ("blocked", f"it requires {', '.join(failed)}") if failed else None


def _outcome(places: Sequence[Place], partly: bool) -> Outcome:
    """Return the worst word; a feature that upstream has in part is at least partly-upstreamed.

    A new file of ours in whose way nothing is says nothing of what upstream has.
    """
    words: list[Outcome] = [place.outcome for place in places if place.hunk or place.outcome != "clean"]
    if words and all(word == "upstreamed" for word in words):
        return "upstreamed"
    some: list[Outcome] = ["partly-upstreamed"] if partly or "upstreamed" in words else ["clean"]
    return worst([*words, *some])


def _detail(outcome: Outcome, places: Sequence[Place]) -> str:
    if outcome == "clean":
        return ""
    if outcome == "offset":
        return by_lines(max(abs(place.offset or 0) for place in places))
    if outcome == "upstreamed":
        return "; ".join(dict.fromkeys(place.detail for place in places if place.outcome == "upstreamed"))
    hunks = [place for place in places if place.hunk or place.outcome != "clean"]
    counted = {
        word: sum(place.outcome == word for place in hunks)
        for word in dict.fromkeys(p.outcome for p in hunks)
    }
    return f"of {len(hunks)} hunks: " + ", ".join(f"{count} {word}" for word, count in counted.items())


def _check_kin(upstream: Upstream, touched: Sequence[str], onto: Revision) -> None:
    """Refuse a tree that is no revision of the project at all."""
    targets = [path for path in dict.fromkeys(touched) if path in upstream.old]
    if not targets or any(path in upstream.new for path in targets):
        return
    shared = sum(path in upstream.new for path in upstream.old)
    if shared < _KIN * len(upstream.old) and not any(path in upstream.renames for path in targets):
        raise PatchError(
            f"{onto.name} has none of the {len(targets)} files that the hooks change: "
            "give the folder or archive of llama.cpp's own files"
        )

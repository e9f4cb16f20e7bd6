"""All checks of a project's series, in an order in which one fault does not hide the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import Error, PatchError
from ..paths import Paths
from ..pins import Lock, Pin
from ..project import serving
from ..stack import lock as trees
from ..stack import series
from ..stack.features import Feature, Stack, select
from ..tree import TreeStore
from . import drift, metadata, shape, text
from .finding import Finding, Place


def static(paths: Paths, store: TreeStore, checkout: Path | None) -> tuple[list[Finding], list[Feature]]:
    """Check what needs no upstream tree; return the findings, and the features that could be read."""
    findings: list[Finding] = []
    features: list[Feature] = []
    for folder in (paths.patches, *paths.on_top):
        for name in _names(folder, findings):
            found = list(_feature(folder, name, store, checkout))
            findings += [item for item in found if isinstance(item, Finding)]
            features += [item for item in found if isinstance(item, Feature)]
    try:
        series.check_graph(features)
    except PatchError as error:
        findings.append(Place(paths.patches, "", "series.toml").error("series", str(error)))
    return findings, features


def _names(folder: Path, findings: list[Finding]) -> Sequence[str]:
    try:
        return series.listed(folder)
    except PatchError as error:
        findings.append(
            Place(folder, "", "series.toml").error("series", str(error).removeprefix("series.toml: "))
        )
        there = folder.iterdir() if folder.is_dir() else ()
        return sorted(entry.name for entry in there if (entry / "feature.toml").is_file())


def _feature(folder: Path, name: str, store: TreeStore, checkout: Path | None) -> Iterator[Finding | Feature]:
    root = folder / name
    for path in sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
        place = Place(folder, name, path.relative_to(folder).as_posix())
        data = path.read_bytes() if path.stat().st_size <= series.FILE_LIMIT else b""
        if path.parent != root / "hooks":
            yield from text.check(place, data, checkout)
        elif path.suffix == ".patch":
            yield from _hook(place, data, store, checkout)
    try:
        feature = series.load_feature(root)
    except PatchError as error:
        place = Place(folder, name, f"{name}/feature.toml")
        yield place.error("load", str(error).removeprefix(f"feature {name}: feature.toml: "))
        return
    carried = {f"hooks/{path.name}" for path in (root / "hooks").glob("*.patch")}
    for unused in sorted(carried - set(feature.hooks)):
        yield Place(folder, name, f"{name}/{unused}").error("unused", "no pin uses this hook: remove it")
    yield from metadata.check(feature, folder, checkout)
    yield feature


def _hook(place: Place, data: bytes, store: TreeStore, checkout: Path | None) -> Iterator[Finding]:
    hook, fault = shape.read(place, data)
    if fault is not None:
        yield fault
    yield from shape.hunk_sizes(place, data, store.repo)
    if hook is not None:
        yield from shape.check(place, hook)
        yield from text.check_lines(place, shape.added_lines(hook), checkout)


def composed(
    paths: Paths, lock: Lock, features: Sequence[Feature], pins: Sequence[Pin], store: TreeStore
) -> list[Finding]:
    """Check what the features make of upstream's trees: they apply, reproduce, and are as locked."""
    findings: list[Finding] = []
    stack = serving(Stack(tuple(features)), lock)
    seen: list[drift.Recomposed] = []
    for pin in pins:
        try:
            every = select(stack, pin.name, "all")
        except Error as error:
            findings.append(
                Place(paths.patches, "", "series.toml").error("series", f"at pin {pin.name}: {error}")
            )
            continue
        for row in drift.recompose(every, pin.name, pin.tree, store):
            if isinstance(row, PatchError):
                findings.append(Place(paths.patches, "", "series.toml").error("applies", str(row)))
            else:
                seen.append(row)
        for folder in (paths.patches, *paths.on_top):
            findings += _locked(folder, stack, pin, store)
    return [*findings, *_drift(stack, seen)]


def _locked(folder: Path, stack: Stack, pin: Pin, store: TreeStore) -> Iterator[Finding]:
    """Compose each feature alone and all together, and compare with the lock of the series."""
    place = Place(folder, "", trees.NAME)
    own = [feature.name for feature in stack.features if feature.folder.parent == folder]
    try:
        held = {row.features: row for row in trees.load(folder) if row.pin == pin.name}
    except PatchError as error:
        yield place.error("lock", str(error))
        return
    wanted = list(trees.shipped(stack, pin.name, own))
    for chosen in wanted:
        names = tuple(feature.name for feature in chosen)
        what = f"{', '.join(names)} at pin {pin.name}"
        try:
            row = trees.of(chosen, pin.name, pin.tree, store)
        except PatchError as error:
            yield Place(folder, names[-1], "series.toml").error("alone", f"{what}: {error}")
            continue
        locked = held.pop(names, None)
        if locked is None or locked.key != row.key:
            yield place.error("lock", f"{what} is not locked as it is now: run `pyllama patches lock`")
        elif locked.tree != row.tree:
            yield place.error("lock", f"{what} gives tree {row.tree}, but {locked.tree} is locked")
    for names in held:
        yield place.error("lock", f"{', '.join(names)} at pin {pin.name} is locked, but not in the series")


def _drift(stack: Stack, seen: Sequence[drift.Recomposed]) -> Iterator[Finding]:
    for feature in stack.features:
        for name in feature.hooks:
            rows = [row for row in seen if (row.feature, row.hook.name) == (feature.name, name)]
            place = Place(feature.folder.parent, feature.name, f"{feature.name}/{name}")
            if rows and not any(row.exact for row in rows):
                pins = ", ".join(row.pin for row in rows)
                message = f"git writes this hook in another way at {pins}"
                yield place.error("drift", f"{message}: run `pyllama patches edit` and `refresh`")
            for row in rows:
                if not row.same_changes:
                    yield place.warning(
                        "drift", f"at pin {row.pin} git draws the bounds of its hunks in another way"
                    )

"""Open a feature at a pin, and go on where a hook did not fit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import PatchError, UsageError
from ..git import Git
from ..pins import Pin
from ..progress import Reporter
from ..project import Project
from ..stack import series
from ..stack.commit import commit_stack, describe, write_commit
from ..stack.features import Feature
from ..stack.hooks import Hook
from ..tree import TreeStore
from . import merging, session
from .session import Session, Step, step

_MARKER = re.compile(rb"^(?:<{7}|\|{7}|>{7})(?: |$)", re.MULTILINE)


def below(project: Project, feature: Feature, pin: Pin) -> tuple[Feature, ...]:
    """Return the features under this one at a pin."""
    names = project.stack.names[: project.stack.names.index(feature.name)]
    return tuple(other for other in project.select(pin, "all") if other.name in names)


def begin(
    project: Project, name: str, pin_name: str | None, source: str | None, reporter: Reporter
) -> Session:
    """Open a session and apply the feature's hooks as far as they go.

    Raises UsageError when one is open already or the feature has nothing to carry over, PatchError
    when a hook stops it (the session is there then, with the conflict in its files).
    """
    feature, pin = project.stack[name], project.pin(pin_name)
    origin = project.pin(_source(project, feature, pin, source))
    folder = session.folder_of(project.paths, feature.name, pin.name)
    with session.locked(project.paths, feature.name):
        if (folder / "state.json").exists():
            raise UsageError(
                f"{name} is open at pin {pin.name} already: go on in {folder / 'tree'}, "
                "or end it with `pyllama patches edit --abort`"
            )
        if folder.exists():  # of a process that was killed before there was a session
            shutil.rmtree(folder)
        store = project.store_with(pin, reporter)
        under = below(project, feature, pin)
        commits = commit_stack(pin.name, pin.tree, under, store)
        hooks = tuple(Step(hook) for hook in feature.at(origin.name).hooks)
        made = Session(
            feature.name, pin.name, origin.name, pin.tree, commits[-1].tree, commits[-1].id, hooks, folder
        )
        folder.mkdir(parents=True)
        step("folder made")
        _repository(made, store)
        step("repository made")
        _files(made, feature)
        step("files added")
        session.save(made)
        step("state written")
        return _go_on(made, project, feature, origin, store, reporter)


def proceed(project: Project, folder: Path, skip: bool, reporter: Reporter) -> Session:
    """Go on after a conflict: with what the user made of it, or without the hook that stopped."""
    open_now = session.load(folder)
    feature = project.stack[open_now.feature]
    with session.locked(project.paths, feature.name):
        number = open_now.stopped
        origin = project.pin(open_now.source)
        if number is not None:
            stopped = open_now.steps[number]
            if skip:
                _restore(open_now, feature.hooks[stopped.hook])
                open_now = open_now.with_step(number, "skipped")
            else:
                for path, line in markers(open_now.tree, stopped.files):
                    raise PatchError(f"{path}, line {line}, still has a conflict marker: resolve it first")
                touched = _touched(open_now, feature.hooks[stopped.hook])
                if touched:
                    open_now.git.run("add", "-A", "-f", "--", *touched)
                open_now = open_now.with_step(number, "merged")
            session.save(open_now)
            step("conflict settled")
        elif open_now.ready:
            raise UsageError(f"nothing stopped in {folder.name}: edit there, then `pyllama patches refresh`")
        store = project.store_with(origin, reporter)
        return _go_on(open_now, project, feature, origin, store, reporter)


def markers(tree: Path, files: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield the conflict markers that are left, by path and line."""
    for name in files:
        path = tree / name
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            for match in _MARKER.finditer(data):
                yield name, data.count(b"\n", 0, match.start()) + 1


def _source(project: Project, feature: Feature, pin: Pin, asked: str | None) -> str:
    """Return the pin whose hooks are taken."""
    own = series.load_feature(feature.folder)
    if asked is not None:
        if own.at(asked).kind != "hooks":
            raise UsageError(f"{feature.name} has no hooks for pin {asked}: name one of {_served(own)}")
        return asked
    like: Pin | None = pin
    while like is not None:
        entry = own.pins.get(like.name)
        if entry is not None:
            if entry.kind == "hooks":
                return like.name
            raise UsageError(
                f"{feature.name} has no hooks for pin {like.name} ({entry.reason}): name one with --from"
            )
        like = project.pin(like.like) if like.like is not None else None
    if not own.hooks and not own.files:
        return pin.name
    raise UsageError(f"{feature.name} does not name pin {pin.name}: say --from which pin ({_served(own)})")


def _served(feature: Feature) -> str:
    return ", ".join(name for name, entry in feature.pins.items() if entry.kind == "hooks") or "none"


def _repository(made: Session, store: TreeStore) -> None:
    """Make a repository that holds all it needs, with the features below checked out."""
    made.tree.mkdir()
    bare = Git(made.tree / ".git")
    bare.run("init", "-q", "--template=")
    bare.run("config", "core.bare", "false")
    (made.tree / ".git/info").mkdir(exist_ok=True)
    # no conversion, whatever upstream's .gitattributes says: bytes are what is hashed
    (made.tree / ".git/info/attributes").write_text("* -text -ident -filter -working-tree-encoding\n")
    packs = made.tree / ".git/objects/pack"
    packs.mkdir(parents=True, exist_ok=True)
    # packed for speed, not for size: no deltas
    store.repo.run(
        *("-c", "core.compression=1", "pack-objects", "-q", "--revs", "--window=0", str(packs / "pack")),
        stdin=f"{made.tip}\n".encode(),
    )
    bare.run("update-ref", made.branch, made.tip)
    bare.run("symbolic-ref", "HEAD", made.branch)
    made.git.run("reset", "-q", "--hard", made.tip)


def _files(made: Session, feature: Feature) -> None:
    """Put the feature's new files into tree and index."""
    for file in feature.files:
        place = made.tree / file.path
        if place.exists():
            raise PatchError(
                f"{feature.name} brings {file.path}, which upstream has at pin {made.pin}: "
                "give ours another name"
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.data)
        place.chmod(0o755 if file.mode == "100755" else 0o644)
    if feature.files:
        made.git.run("add", "-f", "--", *(file.path for file in feature.files))


def _go_on(
    made: Session, project: Project, feature: Feature, origin: Pin, store: TreeStore, reporter: Reporter
) -> Session:
    for number, todo in enumerate(made.steps):
        if todo.state != "todo":
            continue
        hook = feature.hooks[todo.hook]
        done = made.git.run("apply", "--index", "--whitespace=nowarn", "-", stdin=hook.data, check=False)
        trouble: dict[str, str] = {}
        if done.code == 0:
            made = made.with_step(number, "applied")
        else:
            project.store_with(origin, reporter)
            trouble = _merge(made, below(project, feature, origin), feature, hook, origin, store)
            made = made.with_step(number, "conflict" if trouble else "merged", tuple(trouble))
        session.save(made)
        step(f"hook {number}")
        if trouble:
            raise PatchError(
                f"{hook.name} does not fit pin {made.pin} by itself ({'; '.join(trouble.values())}): "
                f"resolve it in {made.tree}, then run `pyllama patches edit --continue`, --skip or --abort"
            )
    _commit(made, feature)
    return made


def _merge(
    made: Session, under: Sequence[Feature], feature: Feature, hook: Hook, origin: Pin, store: TreeStore
) -> dict[str, str]:
    """Merge a hook into the work tree and return what needs a hand; then the index stays as it is."""
    found = merging.sides(under, feature, hook, origin.name, origin.tree, store)
    moved = merging.renamed(store, origin.tree, made.base)
    labels = (f"pin {made.pin}", f"pin {origin.name}", feature.name)
    results = [merging.merge(side, made.tree, moved, labels) for side in found]
    for result in results:
        place = made.tree / result.path
        if result.data is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(result.data)
        elif not result.trouble:
            place.unlink(missing_ok=True)
    trouble = {result.path: result.trouble for result in results if result.trouble}
    if not trouble:
        made.git.run("add", "-A", "-f", "--", *(result.path for result in results))
    return trouble


def _touched(made: Session, hook: Hook) -> list[str]:
    """Return what differs from the index: the user may have had to change other files than the hook's."""
    changed = made.git.run("diff-files", "--name-only", "-z").out.split("\0")
    fresh = made.git.run("ls-files", "--others", "--exclude-standard", "-z").out.split("\0")
    created = [change.path for change in hook.changes if (made.tree / change.path).is_file()]
    return [name for name in dict.fromkeys((*changed, *fresh, *created)) if name]


def _restore(made: Session, hook: Hook) -> None:
    """Take the tree back to what the index holds."""
    for change in hook.changes:
        if change.kind == "create" and not made.git.run("ls-files", "--", change.path).out:
            (made.tree / change.path).unlink(missing_ok=True)
    made.git.run("checkout-index", "-a", "-f", "-q")


def _commit(made: Session, feature: Feature) -> None:
    """Make the feature the commit on top; one that is still empty gets none."""
    tree = made.git.run("write-tree").out.strip()
    if tree != made.below:
        tip = write_commit(TreeStore(made.tree / ".git"), tree, describe(feature), made.tip)
        made.git.run("update-ref", made.branch, tip)

"""Sessions: one feature opened at one pin, with its state in a JSON file beside the work tree.

A session lies in `build/edit/<feature>-<pin>`: `state.json`, written anew as a whole after each step,
and `tree`, a git repository of its own that needs neither the cache nor us.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from ...errors import PatchError, UsageError
from ..git import Git
from ..paths import Paths

SCHEMA = 1
StepState = Literal["todo", "applied", "merged", "conflict", "skipped"]


@dataclass(frozen=True)
class Step:
    """One hook on its way into the tree; `files` are those that need a hand."""

    hook: str
    state: StepState = "todo"
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Session:
    """What is being edited, and how far it has come."""

    feature: str
    pin: str
    source: str
    """The pin whose hooks are carried over; the same as `pin` in the usual case."""
    base: str
    """git's id of the pin's pristine tree."""
    below: str
    """git's id of the tree with the features below this one."""
    tip: str
    """The commit of that tree."""
    steps: tuple[Step, ...]
    folder: Path

    @property
    def tree(self) -> Path:
        """The work tree."""
        return self.folder / "tree"

    @property
    def git(self) -> Git:
        """The session's own repository."""
        return Git(self.tree / ".git", self.tree)

    @property
    def branch(self) -> str:
        """The branch that is checked out."""
        return f"refs/heads/pyllama/{self.pin}/{self.feature}"

    @property
    def stopped(self) -> int | None:
        """Number of the step that needs a hand, or None."""
        return next((n for n, step in enumerate(self.steps) if step.state == "conflict"), None)

    @property
    def ready(self) -> bool:
        """Whether every step is done, and the tree is the user's."""
        return all(step.state in ("applied", "merged", "skipped") for step in self.steps)

    def with_step(self, number: int, state: StepState, files: tuple[str, ...] = ()) -> Session:
        """Return the session with one step in another state."""
        steps = list(self.steps)
        steps[number] = replace(steps[number], state=state, files=files)
        return replace(self, steps=tuple(steps))


def home(paths: Paths) -> Path:
    """Return the folder of all sessions."""
    return paths.build / "edit"


def folder_of(paths: Paths, feature: str, pin: str) -> Path:
    """Return the folder that the session of a feature at a pin has or would have."""
    return home(paths) / f"{feature}-{pin}"


def save(session: Session) -> None:
    """Write the state, whole or not at all."""
    table = {"schema": SCHEMA, **asdict(session)}
    del table["folder"]
    handle, name = tempfile.mkstemp(prefix=".state.", dir=session.folder)
    with open(handle, "w", encoding="utf-8") as stream:
        json.dump(table, stream, indent=1)
        stream.write("\n")
    os.replace(name, session.folder / "state.json")


def load(folder: Path) -> Session:
    """Read a session; PatchError when its state or its work tree is damaged."""
    advice = f"look into {folder} for what you need, then remove that folder"
    try:
        table = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if table.pop("schema") != SCHEMA:
            raise ValueError("it is of another version of pyllama")
        steps = tuple(Step(row["hook"], row["state"], tuple(row["files"])) for row in table.pop("steps"))
        session = Session(**table, steps=steps, folder=folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PatchError(
            f"the state of the session {folder.name} can't be read ({error}): {advice}"
        ) from error
    if not (session.tree / ".git").is_dir():
        raise PatchError(f"the work tree of the session {folder.name} is gone: run edit --abort")
    return session


def find(paths: Paths, feature: str | None = None, pin: str | None = None) -> Path:
    """Return the folder of the one open session that is meant; UsageError when there is none, or several."""
    place = home(paths)
    there = sorted(path.parent for path in place.glob("*/state.json")) if place.is_dir() else []
    names = [_names(path) for path in there]
    meant = [
        path
        for path, (its_feature, its_pin) in zip(there, names, strict=True)
        if feature in (None, its_feature) and pin in (None, its_pin)
    ]
    if len(meant) == 1:
        return meant[0]
    what = f"no session of {feature} is open" if feature else "no session is open"
    if not meant:
        raise UsageError(f"{what}: begin with `pyllama patches edit {feature or 'FEATURE'}`")
    raise UsageError(
        f"several sessions are open ({', '.join(p.name for p in meant)}): name feature and --pin"
    )


def _names(folder: Path) -> tuple[str, str]:
    """Return feature and pin of a session, as far as its state can be read."""
    try:
        table = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return str(table["feature"]), str(table["pin"])
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name, ""


def close(folder: Path) -> None:
    """Remove a session; first its state, so that what a killed process leaves is no session."""
    (folder / "state.json").unlink(missing_ok=True)
    step("state removed")
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(paths: Paths, feature: str) -> Iterator[None]:
    """Hold the lock of a feature's sessions; one that somebody holds is an error, not a wait."""
    try:
        home(paths).mkdir(parents=True, exist_ok=True)
        lock = FileLock(home(paths) / f".{feature}.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise PatchError(f"another process is working on {feature}: try again when it has ended") from None
    except OSError as error:
        raise PatchError(f"{home(paths)} can't be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def step(name: str) -> None:
    """Mark a point between two steps; tests kill the process here."""

"""Upstream revisions as the user gives them: a pin, a folder, an archive."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ...errors import FetchError, PatchError
from ..fetch.sources import from_archive, from_path
from ..progress import Reporter
from ..project import Project
from ..tree import TreeStore


@dataclass(frozen=True)
class Revision:
    """A tree of upstream's, under the name that the user gave it."""

    name: str
    tree: str
    seconds: float = 0.0
    """How long it took to read."""


def bring(given: str, project: Project, store: TreeStore, reporter: Reporter) -> Revision:
    """Put a revision into `store`, an overlay of the project's own, and return it.

    A pin that is not cached is fetched. Raises FetchError when it is none of the three, or can't be read.
    """
    start = time.perf_counter()
    for pin in project.lock.pins:
        if pin.name == given:
            project.store_with(pin, reporter)
            return Revision(given, pin.tree, time.perf_counter() - start)
    place = Path(given).expanduser().absolute()
    subfolder = next((pin.index.subfolder for pin in project.lock.pins if pin.index is not None), "")
    with tempfile.TemporaryDirectory(prefix="pyllama-rebase-") as work, reporter.stage("read") as stage:
        if place.is_dir():
            files = from_path(place, subfolder, Path(work))
        elif place.exists():
            files = from_archive(place, subfolder, Path(work), stage)
        else:
            known = ", ".join(pin.name for pin in project.lock.pins)
            raise FetchError(
                f"there is no pin, folder or archive {given}: give one of {known}, or where it is"
            )
        stage.update(0, text="hashing")
        try:
            tree = store.add(files)
        except PatchError as error:
            raise FetchError(
                f"the files of {given} cannot be read ({error}): see that all of them can"
            ) from error
        stage.note = f"{given} {tree[:12]}"
    return Revision(given, tree, time.perf_counter() - start)

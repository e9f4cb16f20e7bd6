"""Trees in a content-addressed store: put a folder in, verify it, take it out, see if it is clean.

The store is a bare git repository. A tree id names every byte, name and mode below it, so a
tree that is there needs no further trust, and a patched tree is an id too.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from .git import Git, init_bare, names


class TreeStore:
    """A bare repository that holds trees by id."""

    def __init__(self, directory: Path) -> None:
        self.repo = init_bare(directory)

    @contextmanager
    def overlay(self) -> Iterator[TreeStore]:
        """Yield a store that has everything of this one; what is added to it is gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="pyllama-objects-") as folder:
            over = TreeStore(self.repo.directory)
            over.repo = replace(self.repo, objects=Path(folder))
            yield over

    def __contains__(self, tree: str) -> bool:
        return self.repo.run("cat-file", "-e", f"{tree}^{{tree}}", check=False).code == 0

    @contextmanager
    def scratch_index(self, work_tree: Path | None = None, keep: bool = True) -> Iterator[Git]:
        """Yield the repository with an index of its own that is removed afterwards.

        Without `keep`, the objects made on the way are removed too: the store is only read.
        """
        with tempfile.TemporaryDirectory(prefix="pyllama-index-") as folder:
            objects = self.repo.objects
            if not keep and objects is None:  # an overlay keeps nothing anyway
                objects = Path(folder) / "objects"
                objects.mkdir()
            yield replace(self.repo, work_tree=work_tree, index=Path(folder) / "index", objects=objects)

    def add(self, folder: Path) -> str:
        """Store every file below `folder`, ignored ones too, and return the tree id."""
        with self.scratch_index(folder) as git:
            git.run("add", "-A", "-f", ".")
            return git.run("write-tree").out.strip()

    def checkout(self, tree: str, folder: Path) -> None:
        """Write `tree` to `folder`, which must not exist, and an index `folder`.index beside it.

        The files are made in a sibling folder and renamed into place when complete.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        fresh, index = partial / folder.name, partial / "index"
        try:
            fresh.mkdir()  # unlike mkdtemp's, open to whom the user's umask says
            git = self.repo.with_index(index, fresh)
            git.run("read-tree", tree)
            git.run("-c", "checkout.workers=0", "checkout-index", "-a", "-q", "-u")  # one per core
            os.replace(index, index_of(folder))
            os.rename(fresh, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def differences(self, tree: str, folder: Path) -> list[str]:
        """Return the names below `folder` that differ from `tree`, strangers included.

        The index beside the folder caches file times, so this costs a stat per file. It is only
        a cache: it is worked on as a copy, and one that is missing, damaged, locked or of
        another tree is made anew.
        """
        index = index_of(folder)
        with self.scratch_index(folder) as git:
            scratch = git.index
            assert scratch is not None
            known = _copy(index, scratch)
            if not known or git.run("write-tree", check=False).out.strip() != tree:
                scratch.unlink(missing_ok=True)
                git.run("read-tree", tree)
                known = False
            before = scratch.stat()
            git.run("update-index", "-q", "--refresh", check=False)
            changed = names(git.run("diff-files", "--name-only", "-z").out)
            strangers = names(git.run("ls-files", "--others", "-z").out)
            if not known or scratch.stat().st_ino != before.st_ino:
                with suppress(OSError):
                    _replace(scratch, index)
        found = {*changed, *strangers}
        if os.path.lexists(folder / ".git"):
            found.add(".git")
        return sorted(found)


def _copy(source: Path, target: Path) -> bool:
    """Copy an index with its time, by which git tells entries that it must read again."""
    try:
        shutil.copy2(source, target)
    except OSError:
        return False
    return True


def _replace(source: Path, target: Path) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    try:
        shutil.copy2(source, name)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


def index_of(folder: Path) -> Path:
    """Return the file that caches the state of a checked-out folder."""
    return folder.with_name(folder.name + ".index")

"""The stack in the forms that others take: mbox, quilt series, one diff, a git branch.

All are made from the same commits, so each one, applied with its own tool to the pristine
tree, gives the same tree; and the same stack gives the same bytes every time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from ...errors import UsageError
from ..git import Git
from ..tree import TreeStore
from .commit import Commit, commit_stack, describe
from .diffs import FORMAT, diff, raw
from .features import Feature

FORMATS = ("mbox", "quilt", "diff", "branch")


def export(
    pin: str, tree_id: str, features: Sequence[Feature], store: TreeStore, form: str, out: Path
) -> str:
    """Write `features` on the pristine tree `tree_id` to `out` and return the id of the patched tree.

    `mbox` and `diff` are files for `git am` and `patch -p1`, `quilt` is a folder with patches and
    `series`, `branch` a git bundle to fetch `pyllama/<pin>` from. Raises UsageError for another
    format and for a quilt folder that holds something, PatchError when a hook does not apply.
    """
    if form not in FORMATS:
        raise UsageError(f"no format is called {form!r}: choose from {', '.join(FORMATS)}")
    if form == "quilt" and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise UsageError(f"{out} is not an empty folder: name a new one for the quilt series")
    commits = commit_stack(pin, tree_id, features, store)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        fresh = scratch / "out"
        if form == "mbox":
            fresh.write_bytes(_mbox(store.repo, commits))
        elif form == "diff":
            fresh.write_bytes(diff(store.repo, commits[0].id, commits[-1].id))
        elif form == "quilt":
            _quilt(store.repo, commits, features, fresh)
        else:
            _bundle(store, commits[-1].id, f"refs/heads/pyllama/{pin}", scratch / "repo", fresh)
        if form == "quilt" and out.is_dir():
            out.rmdir()
        os.replace(fresh, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return commits[-1].tree


def write_whole(out: Path, data: bytes) -> None:
    """Write a file that is there with all its bytes or as it was before."""
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    try:
        with open(handle, "wb") as stream:
            stream.write(data)
        os.replace(name, out)
    finally:
        Path(name).unlink(missing_ok=True)


def _mbox(repo: Git, commits: Sequence[Commit]) -> bytes:
    if len(commits) == 1:
        return b""
    done = repo.run(
        *("format-patch", "--stdout", "--zero-commit", "--no-signature", "--keep-subject", "--no-base"),
        *(*FORMAT, f"{commits[0].id}..{commits[-1].id}"),
    )
    return raw(done.out)


def patch_files(
    repo: Git, commits: Sequence[Commit], features: Sequence[Feature]
) -> Iterator[tuple[str, bytes]]:
    """Yield the patch of each commit but the first: the feature's name, and its description and diff."""
    by_name = {feature.name: feature for feature in features}
    for before, commit in pairwise(commits):
        assert commit.feature is not None
        header = describe(by_name[commit.feature]) + "\n"
        yield commit.feature, raw(header) + diff(repo, before.id, commit.id)


def _quilt(repo: Git, commits: Sequence[Commit], features: Sequence[Feature], folder: Path) -> None:
    folder.mkdir()
    series = []
    for feature, data in patch_files(repo, commits, features):
        name = f"{feature}.patch"
        (folder / name).write_bytes(data)
        series.append(name)
    (folder / "series").write_text("".join(f"{name}\n" for name in series), encoding="utf-8")


def _bundle(store: TreeStore, commit: str, ref: str, scratch: Path, out: Path) -> None:
    """Write a bundle from a repository of its own: the store itself gets no branch."""
    repo = Git(scratch)
    repo.run("init", "-q", "--bare", "--template=")
    alternates = scratch / "objects" / "info" / "alternates"
    alternates.parent.mkdir(parents=True, exist_ok=True)
    alternates.write_text(f"{store.repo.directory / 'objects'}\n", encoding="utf-8")
    repo.run("update-ref", ref, commit)
    # one thread: how several share the packing is not the same twice
    repo.run("-c", "pack.threads=1", "bundle", "create", "-q", str(out), ref)

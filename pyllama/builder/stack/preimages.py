"""The files that a stack changes, as they were before: what a 3-way merge needs to start from.

A tarball has no history, so `git am -3` fails on it: the repository lacks the blobs. With these
blobs in its object store (`git unpack-objects < FILE`) it merges.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ..git import Git
from ..tree import TreeStore
from .commit import commit_stack
from .diffs import raw
from .features import Feature


def pack(pin: str, tree_id: str, features: Sequence[Feature], store: TreeStore) -> bytes:
    """Return a git pack with the blobs that the stack's commits change; the same bytes every time."""
    commits = commit_stack(pin, tree_id, features, store)
    blobs = sorted(
        {
            blob
            for before, after in pairwise(commits)
            for blob in _changed(store.repo, before.tree, after.tree)
        }
    )
    done = store.repo.run(
        *("-c", "pack.threads=1", "pack-objects", "-q", "--stdout", "--no-reuse-delta", "--no-reuse-object"),
        stdin="".join(f"{blob}\n" for blob in blobs).encode(),
    )
    return raw(done.out)


def _changed(repo: Git, before: str, after: str) -> list[str]:
    """Return the ids of the blobs of `before` that are another one, or gone, in `after`."""
    rows = repo.run("diff-tree", "-r", "--no-renames", "--diff-filter=MD", before, after).out.splitlines()
    return [row.split()[2] for row in rows]

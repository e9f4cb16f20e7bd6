"""The stack as commits: one per feature, on a commit of the pristine tree.

Identity and dates are fixed, so the same stack gives the same commit ids on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..tree import TreeStore
from .compose import composing
from .features import Feature

_PERSON = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "pyllama"), ("EMAIL", "pyllama@localhost"), ("DATE", "946684800 +0000"))
}


@dataclass(frozen=True)
class Commit:
    """One commit; `feature` is None for the pristine tree."""

    feature: str | None
    id: str
    tree: str


def commit_stack(pin: str, tree_id: str, features: Sequence[Feature], store: TreeStore) -> tuple[Commit, ...]:
    """Write the commits to the store, the pristine one first, and return them.

    Features that upstream has at this pin change nothing and get no commit.
    """
    message = f"llama.cpp at pin {pin}\n\nTree: {tree_id}\n"
    commits = [Commit(None, write_commit(store, tree_id, message, None), tree_id)]
    with composing(store, tree_id, pin) as composer:
        for feature in features:
            step = composer.add(feature)
            if feature.at(pin).kind == "hooks":
                made = write_commit(store, step.tree, describe(feature), commits[-1].id)
                commits.append(Commit(feature.name, made, step.tree))
    return tuple(commits)


def describe(feature: Feature) -> str:
    """Return the commit message of a feature: title, description, trailers."""
    trailers = [
        ("Feature", feature.name),
        *(("Origin", origin) for origin in feature.origin),
        ("Upstream-Status", feature.upstream_status),
        *(("Requires", name) for name in feature.requires),
        ("License", feature.license),
    ]
    lines = "".join(f"{name}: {' '.join(value.split())}\n" for name, value in trailers)
    return f"{' '.join(feature.title.split())}\n\n{feature.description.strip()}\n\n{lines}"


def write_commit(store: TreeStore, tree: str, message: str, parent: str | None) -> str:
    """Write one commit with our identity and the fixed date, and return its id."""
    parents = () if parent is None else ("-p", parent)
    done = store.repo.run("commit-tree", tree, *parents, stdin=message.encode("utf-8"), env=_PERSON)
    return done.out.strip()

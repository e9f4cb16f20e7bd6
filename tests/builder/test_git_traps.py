"""Traps of git that a patch tool falls into: each is shown with git alone, then that ours does not.

T1 and T9 are in test_apply, T3 in test_status, T5 in test_stack, T7 in test_features and test_lint.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from throwaway import MAIN, PIN, UPSTREAM, World, change, changed, make_world

from pyllama.builder.git import environment
from pyllama.builder.stack.commit import commit_stack
from pyllama.builder.stack.compose import composing
from pyllama.builder.stack.export import export
from pyllama.builder.stack.preimages import pack
from pyllama.errors import PatchError


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = make_world(tmp_path)
    made.feature("first", hooks={"x.patch": change(5, "first")})
    made.feature("second", hooks={"x.patch": change(20, "second", changed(5, "first"))}, requires=["first"])
    return made


def git(folder: Path, *args: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    who = {f"GIT_{role}_{key}": "x@x" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    return subprocess.run(
        ["git", *map(str, args)],
        cwd=folder,
        env={**environment(), **who, "GIT_CEILING_DIRECTORIES": str(folder.parent)},
        input=stdin.decode(),
        capture_output=True,
        text=True,
        check=False,
    )


def write(folder: Path, **other: str) -> Path:
    """Write the upstream tree, with src/main.cpp as given."""
    for name, text in {**UPSTREAM, "src/main.cpp": other.get("main", MAIN)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def tarball(folder: Path, main: str) -> Path:
    """Make a repository as one makes it of a tarball: one commit, no history."""
    write(folder, main=main)
    for words in (("init", "-q", "."), ("add", "-A"), ("commit", "-q", "-m", "tarball")):
        assert git(folder, *words).returncode == 0
    return folder


def test_t2_a_3way_apply_needs_a_repository(world: World, tmp_path: Path) -> None:
    """Outside of one git fails with 128; ours composes in the store and needs none around the tree."""
    folder = write(tmp_path / "plain")
    diff = change(5, "first").encode()
    done = git(folder, "apply", "--3way", "-", stdin=diff)
    assert done.returncode == 128
    with composing(world.store, world.tree, PIN) as composer:
        composer.add(world.stack()["first"])
        assert composer.tree != world.tree
    assert world.apply(["first"]).folder.joinpath("src/main.cpp").read_text() == changed(5, "first")


MOVED = changed(7, "upstream changed this line, which is context of the first hook")


def test_t4_am_3way_on_a_tarball_needs_the_preimages(world: World, tmp_path: Path) -> None:
    features = world.stack().features
    mbox = tmp_path / "stack.mbox"
    export(PIN, world.tree, features, world.store, "mbox", mbox)
    folder = tarball(tmp_path / "moved", MOVED)

    failed = git(folder, "am", "-3", mbox)
    assert failed.returncode != 0
    assert "Repository lacks necessary blobs" in failed.stdout + failed.stderr
    git(folder, "am", "--abort")

    packed = pack(PIN, world.tree, features, world.store)
    assert packed == pack(PIN, world.tree, features, world.store)
    done = subprocess.run(
        ["git", "unpack-objects", "-q"], cwd=folder, env=environment(), input=packed, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    done_am = git(folder, "am", "-3", mbox)
    assert done_am.returncode == 0, done_am.stdout + done_am.stderr
    lines = (folder / "src/main.cpp").read_text().splitlines()
    assert (lines[4], lines[6], lines[19]) == ("first", MOVED.splitlines()[6], "second")


def test_t6_a_change_inside_a_larger_commit(world: World, tmp_path: Path) -> None:
    """patch-id compares whole commits and misses it; a temporary index finds it without a checkout."""
    taken = changed(28, "and more", changed(5, "first"))
    newer = world.store.add(write(tmp_path / "newer", main=taken))
    repo = world.store.repo
    commits = commit_stack(PIN, world.tree, [world.stack()["first"]], world.store)

    def patch_id(before: str, after: str) -> str:
        text = repo.run("diff", before, after).out
        return repo.run("patch-id", "--stable", stdin=text.encode()).out.split()[0]

    assert patch_id(commits[0].tree, commits[1].tree) != patch_id(world.tree, newer)
    hook = change(5, "first").encode()
    with world.store.scratch_index(keep=False) as index:
        index.run("read-tree", newer)
        forward = index.run("apply", "--cached", "--check", "-", stdin=hook, check=False)
        back = index.run("apply", "--cached", "--check", "--reverse", "-", stdin=hook, check=False)
    assert (forward.code, back.code) == (1, 0)


def test_t8_no_separator_line_in_what_we_export(world: World, tmp_path: Path) -> None:
    """Without a stat there is no `---` line at which a naive reader could split; mailinfo reads trailers."""
    repo = world.store.repo
    commits = commit_stack(PIN, world.tree, world.stack().features, world.store)
    words = ("format-patch", "--stdout", "--no-stat", "-1")
    plain = repo.run(*words, commits[-1].id).out
    assert not re.search(r"^---$", plain, re.MULTILINE)

    mbox = tmp_path / "one.mbox"
    export(PIN, world.tree, world.stack().features[:1], world.store, "mbox", mbox)
    for text in (plain.encode(), mbox.read_bytes()):
        done = git(tmp_path, "mailinfo", "-k", "message", "patch", stdin=text)
        assert done.returncode == 0, done.stderr
        message = (tmp_path / "message").read_text()
        trailers = git(tmp_path, "interpret-trailers", "--parse", stdin=message.encode()).stdout.splitlines()
        assert "License: MIT" in trailers and any(line.startswith("Feature: ") for line in trailers)
        assert (tmp_path / "patch").read_text().lstrip("-\n ").startswith(("diff --git", "src/main.cpp"))


def test_t10_a_hunk_without_context_goes_to_the_end(world: World, tmp_path: Path) -> None:
    """git ignores the line number of an insertion that has no context, and exits with 0."""
    folder = write(tmp_path / "plain")
    name = "src/main.cpp"
    hunk = f"diff --git a/{name} b/{name}\n--- a/{name}\n+++ b/{name}\n@@ -3,0 +4 @@\n+new\n"
    done = git(folder, "apply", "-", stdin=hunk.encode())
    assert done.returncode == 0
    assert (folder / "src/main.cpp").read_text() == MAIN + "new\n"
    world.feature("third", hooks={"x.patch": hunk})
    with pytest.raises(PatchError, match="no line of context"):
        world.stack()

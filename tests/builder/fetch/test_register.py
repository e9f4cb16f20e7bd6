"""`pyllama pins add`: a revision of the user's own is locked by what its files are."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from throwaway import PIN, UPSTREAM, World, make_world

from pyllama.builder import pins
from pyllama.builder.fetch import sources
from pyllama.builder.fetch.register import NewPin, register
from pyllama.builder.git import environment
from pyllama.builder.paths import locate
from pyllama.builder.pins import Pin
from pyllama.builder.progress import Reporter
from pyllama.errors import FetchError, UsageError, VerificationError

LOCK = f"""# kept
default = "{PIN}"
[[pin]]
name = "{PIN}"
commit = "{"1" * 40}"
tree = "{"2" * 40}"
date = "2026-10-01"
why = "a test"  # this too
"""
COMMIT = "abcdef0123456789abcdef0123456789abcdef01"


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = make_world(tmp_path)
    made.paths.vendor.mkdir()
    made.paths.pins.write_text(LOCK)
    return made


def add(world: World, new: NewPin, file: Path | None = None, **where: Path) -> Pin:
    asked = sources.request(None, where.get("path"), where.get("archive"))
    lock = pins.load(world.paths.pins)
    return register(new, asked, lock, file or world.paths.pins, world.paths, Reporter(quiet=True))


def new(name: str = "mine", commit: str | None = COMMIT, like: str | None = None) -> NewPin:
    return NewPin(name, "2026-11-01", "we run it", commit, like)


def git(folder: Path, *args: str) -> str:
    words = ["git", "-c", "user.name=x", "-c", "user.email=x@x", *args]
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_folder_is_locked_by_its_tree(world: World) -> None:
    pin = add(world, new(like=PIN), path=world.root / "upstream")
    assert (pin.tree, pin.like, pin.commit) == (world.tree, PIN, COMMIT)
    assert pins.load(world.paths.pins).pin("mine") == pin
    assert world.paths.pins.read_text().startswith(LOCK)
    assert pin.tree in world.store


def test_an_archive_and_a_lock_on_top(world: World, tmp_path: Path) -> None:
    archive = tmp_path / "x.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(world.root / "upstream", "llama.cpp-abc")
    file = tmp_path / "fork" / "pins.toml"
    pin = add(world, new(), file, archive=archive)
    assert pin.tree == world.tree
    assert pins.load(world.paths.pins, file).pin("mine") == pin
    assert world.paths.pins.read_text() == LOCK
    assert add(world, new("more"), file, archive=archive).tree == world.tree
    assert [pin.name for pin in pins.load(world.paths.pins, file).pins] == [PIN, "mine", "more"]


def test_a_git_work_tree_tells_its_commit_and_must_be_clean(world: World) -> None:
    folder = world.root / "upstream"
    git(folder, "init", "-q", ".")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "x")
    pin = add(world, new(commit=None), path=folder)
    assert (pin.commit, pin.tree) == (git(folder, "rev-parse", "HEAD"), world.tree)
    linked = world.root / "linked"
    git(folder, "worktree", "add", "-q", "--detach", str(linked))
    assert add(world, new("linked", None), path=linked).commit == pin.commit
    (folder / "debris.o").write_text("x")
    before = world.paths.pins.read_text()
    with pytest.raises(VerificationError, match="clean work tree"):
        add(world, new("dirty", None), path=folder)
    assert world.paths.pins.read_text() == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (new(PIN), "is a pin '2026-10' already"),
        (new("../x"), "malformed name"),
        (new(commit="main"), "malformed commit"),
        (new(commit=None), "say with --commit"),
        (new(like="nobody"), "there is no pin 'nobody'"),
    ],
)
def test_what_makes_no_sense_is_refused(world: World, given: NewPin, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        add(world, given, path=world.root / "upstream")
    assert world.paths.pins.read_text() == LOCK


def test_files_that_are_not_there(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--path or --archive"):
        add(world, new())
    with pytest.raises(FetchError, match="is not a folder"):
        add(world, new(), path=tmp_path / "nowhere")
    assert world.paths.pins.read_text() == LOCK


def test_the_command(tmp_path: Path) -> None:
    folder, series = tmp_path / "upstream", tmp_path / "series"
    for path, text in UPSTREAM.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    series.mkdir()
    (series / "series.toml").write_text("features = []\n")
    words = [
        "pins",
        "add",
        "mine",
        "--path",
        str(folder),
        "--commit",
        COMMIT,
        "--series",
        str(series),
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pyllama.builder", *words], capture_output=True, text=True, check=True
    )
    pin = json.loads(done.stdout)
    assert pin["name"] == "mine" and len(pin["tree"]) == 40
    assert pins.load(locate().pins, series / "pins.toml").pin("mine").tree == pin["tree"]

"""`pyllama patches lock`, and `apply` comparing with it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from throwaway import PIN, World, change, make_world

from pyllama.builder.stack import lock as trees
from pyllama.errors import PatchError


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = make_world(tmp_path)
    made.feature("one", {"a.patch": change(5, "x")})
    made.feature("two", {"a.patch": change(20, "x")})
    return made


def locked(world: World) -> list[trees.LockedTree]:
    return list(trees.compute(world.stack(), PIN, world.tree, world.store))


def test_each_alone_and_all_together(world: World) -> None:
    rows = locked(world)
    assert [row.features for row in rows] == [("one",), ("two",), ("one", "two")]
    assert len({row.tree for row in rows}) == 3
    assert rows[2].tree == world.apply().tree


def test_written_and_read_again(world: World) -> None:
    path = world.patches / trees.NAME
    path.write_text(trees.dump(locked(world)))
    assert list(trees.load(world.patches)) == locked(world)
    assert trees.load(world.root) == ()


def test_apply_refuses_another_tree_of_the_same_patches(world: World) -> None:
    rows = [replace(row, tree="0" * 40) for row in locked(world)]
    (world.patches / trees.NAME).write_text(trees.dump(rows))
    with pytest.raises(PatchError, match=r"give tree [0-9a-f]{40} here, but 0{40} is locked"):
        world.apply()
    assert not list(world.paths.build.glob("*/tree"))


def test_apply_does_not_mind_patches_that_nobody_locked(world: World) -> None:
    (world.patches / trees.NAME).write_text(trees.dump(locked(world)[:1]))
    world.apply()
    (world.patches / "one/hooks/a.patch").write_text(change(5, "y"))
    assert world.apply().tree


def test_a_damaged_lock_stops_apply(world: World) -> None:
    (world.patches / trees.NAME).write_text("tree = 3")
    with pytest.raises(PatchError, match="run `pyllama patches lock`"):
        world.apply()


def test_the_command(world: World, tmp_path: Path) -> None:
    """A series of one's own is locked beside its features, and checked."""
    series = tmp_path / "fork"
    series.mkdir()
    (series / "series.toml").write_text("features = []\n")

    def lock(*args: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "pyllama.builder", "patches", "lock", *args]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    stale = lock("--series", str(series), "--check")
    assert stale.returncode == 1 and "not up to date" in stale.stdout
    assert not (series / trees.NAME).exists()
    assert "written" in lock("--series", str(series)).stdout
    assert lock("--series", str(series), "--check").returncode == 0
    assert "up to date" in lock("--check").stdout

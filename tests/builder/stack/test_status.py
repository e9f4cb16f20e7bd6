"""Does the stack apply, and nothing is touched by asking."""

from __future__ import annotations

from pathlib import Path

import pytest
from throwaway import PIN, World, change, changed, make_world

from pyllama.builder.stack.status import status
from pyllama.errors import PatchError


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}


def test_each_outcome(world: World) -> None:
    world.feature("good", {"a.patch": change(3, "x")}, {"src/new.cpp": "int n;\n"})
    shifted = change(20, "y").replace("@@ -17,7 +17,7 @@", "@@ -12,7 +12,7 @@")
    world.feature("moved", {"a.patch": shifted})
    world.feature("bad", {"a.patch": change(3, "z")}, {"src/bad.cpp": "int b;\n"})
    world.feature("child", {"a.patch": change(28, "z")}, requires=["bad"])
    world.feature("old", pin='upstream = "#5"')
    world.feature("never", pin='not-applicable = "no such file"')
    world.feature("last", {"a.patch": change(26, "w")}, {"src/bad.cpp": "int c;\n"})
    before = snapshot(world.root)
    rows = {row.name: row for row in status(world.stack(), PIN, world.tree, world.store)}
    assert snapshot(world.root) == before
    assert {name: row.outcome for name, row in rows.items()} == {
        "good": "clean",
        "moved": "offset",
        "bad": "conflict",
        "child": "blocked",
        "old": "upstreamed",
        "never": "not-applicable",
        "last": "clean",
    }
    assert [name for name, row in rows.items() if not row.good] == ["bad", "child"]
    good = rows["good"]
    assert (good.hooks, good.files, good.touched) == (("hooks/a.patch",), ("src/new.cpp",), ("src/main.cpp",))
    assert (good.added, good.removed, good.upstream_status) == (1, 1, "pending")
    assert "5 lines" in rows["moved"].detail
    assert "src/main.cpp:1" in rows["bad"].detail
    assert rows["never"].detail == "no such file"


def test_t3_a_feature_that_is_rewritten_by_a_later_one_is_clean(world: World) -> None:
    """Asked whether it reverses, the first feature would say no once the second is in."""
    world.feature("first", {"a.patch": change(10, "x")})
    world.feature("second", {"a.patch": change(10, "y", changed(10, "x"))}, requires=["first"])
    made = world.apply()
    assert "y\n" in (made.folder / "src/main.cpp").read_text()
    for _ in range(2):
        rows = status(world.stack(), PIN, world.tree, world.store)
        assert [row.outcome for row in rows] == ["clean", "clean"]
        world.apply()


def test_a_tree_that_is_not_there(world: World) -> None:
    with pytest.raises(PatchError, match="run `pyllama fetch 2026-10`"):
        status(world.stack(), PIN, "0" * 40, world.store)


REAL = Path(__file__).parents[3] / "patches"


def test_the_projects_own_series_says_something_of_every_feature(world: World) -> None:
    stack = World(REAL.parent, world.store, world.tree).stack()
    rows = status(stack, PIN, world.tree, world.store)
    assert tuple(row.name for row in rows) == stack.names

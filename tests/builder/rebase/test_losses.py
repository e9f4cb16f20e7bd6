"""Which lines of upstream's a hook would take out again: a merge is never trusted silently."""

from __future__ import annotations

from pathlib import Path

import pytest
from newer import CACHE, CODE, fresh, hook, onto, onto_code, places, swapped, with_line, words
from throwaway import World

FIND = CODE[CODE.index("int cache_find") : CODE.index("size_t cache_total_size")]
RETURN = "            return (int) i;\n"


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = fresh(tmp_path)
    made.feature("find", {"a.patch": hook(swapped(CODE, RETURN, "            return cache_hit(i);\n"))})
    return made


def test_a_conflict_lists_what_the_hooks_side_would_delete(world: World) -> None:
    newer = swapped(CODE, RETURN, "            cache_count(cache);\n            return (int) i + 1;\n")
    report = onto_code(world, newer)
    assert words(report) == {"find": "conflict"}
    rows = newer.splitlines()
    losses = report["find"].would_delete
    assert [(loss.hook, loss.hunk, loss.file, loss.text.strip()) for loss in losses] == [
        ("hooks/a.patch", 1, CACHE, "cache_count(cache);"),
        ("hooks/a.patch", 1, CACHE, "return (int) i + 1;"),
    ]
    assert [rows[loss.line - 1] for loss in losses] == [loss.text for loss in losses]


def test_a_hunk_that_lands_on_a_copy_that_upstream_wrote(world: World) -> None:
    """The function that the hook is for went on to be another one; a copy of it has its old text."""
    changed = CODE.replace("return (int) i;", "return (int) i + 1;")
    newer = changed + "\n#ifdef CACHE_OLD\n" + FIND + "#endif\n"
    report = onto_code(world, newer)
    (place,) = places(report, "find")
    assert (place.outcome, place.detail) == (
        "offset",
        "it lands in code that upstream wrote since: see that it is the right place",
    )
    (loss,) = report["find"].would_delete
    assert loss.text == RETURN.rstrip("\n") and newer.splitlines()[loss.line - 1] == loss.text


def test_a_line_that_only_moved_is_no_loss(world: World) -> None:
    moved = with_line(CODE.replace(FIND, ""), "static size_t", *FIND.splitlines())
    report = onto_code(world, moved)
    assert words(report) == {"find": "offset"} and not report["find"].would_delete


def test_nothing_is_lost_where_upstream_changed_something_else(world: World) -> None:
    report = onto_code(world, with_line(CODE, "    return -1;", "    cache_miss(cache, pos);"))
    assert report["find"].would_delete == ()


def test_the_lines_are_those_of_the_revision_though_hooks_came_before(tmp_path: Path) -> None:
    world = fresh(tmp_path)
    first = "// one\n// two\n" + CODE
    world.feature("first", {"a.patch": hook(first)})
    world.feature(
        "find", {"a.patch": hook(swapped(first, RETURN, "            return cache_hit(i);\n"), first)}
    )
    newer = swapped(CODE, RETURN, "            return (int) i + 1;\n")
    report = onto(world, {CACHE: newer})
    (loss,) = report["find"].would_delete
    assert newer.splitlines()[loss.line - 1] == loss.text == "            return (int) i + 1;"
    assert places(report, "find")[0].line == loss.line

"""Near misses: upstream's lines that resemble a hunk's, or are there without upstream's doing."""

from __future__ import annotations

from pathlib import Path

import pytest
from newer import CODE, LOCK, UPSTREAM, fresh, hook, onto, onto_code, places, with_line, words
from throwaway import PIN, World, diff, make_world

FIND = "    for (size_t i = 0; i < cache->size; ++i) {\n        if (cache->cells[i].pos == pos) {\n"
ROWS = ["    const int last = cache_last_pos(cache);", "    cache_check_range(cache, pos, last, pos);"]
STEPS = "src/steps.cpp"


def outcome(tmp_path: Path, ours: list[str], theirs: list[str]) -> str:
    """Rebase a hook that adds lines to a function onto an upstream that added others there."""
    world = fresh(tmp_path)
    world.feature("check", {"a.patch": hook(with_line(CODE, FIND, *ours))})
    return words(onto_code(world, with_line(CODE, FIND, *theirs)))["check"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("pos, last, pos", "pos, pos, pos"),  # a name that our hunk uses for something else
        ("pos, last, pos", "last, last, last"),
        ("pos, last, i_max", "pos, last, last"),
    ],
)
def test_another_variable_is_no_renamed_one(tmp_path: Path, ours: str, theirs: str) -> None:
    mine, others = ([ROWS[0], ROWS[1].replace("pos, last, pos", text)] for text in (ours, theirs))
    assert outcome(tmp_path, mine, others) == "partly-upstreamed"


def test_a_name_that_upstream_still_uses_is_not_renamed(tmp_path: Path) -> None:
    """Upstream checks another variable than we do, and has ours beside it."""
    theirs = ["    const int other = cache_last_pos(cache);", ROWS[1].replace("last", "other")]
    theirs.append("    cache_note(cache, last);")
    assert outcome(tmp_path, ROWS, theirs) == "conflict"


def test_two_variables_are_not_renamed_to_one(tmp_path: Path) -> None:
    mine = ["    cache_check_range_of_all_cells(cache, first, second, pos);"]
    theirs = ["    cache_check_range_of_all_cells(cache, both, both, pos);"]
    assert outcome(tmp_path, mine, theirs) == "conflict"


def test_every_use_renamed_is_the_same(tmp_path: Path) -> None:
    theirs = [row.replace(" last", " newest") for row in ROWS]
    assert outcome(tmp_path, ROWS, theirs) == "upstreamed"


def test_another_header_is_no_renamed_variable(tmp_path: Path) -> None:
    world = fresh(tmp_path)
    lines = ("#include <cache/detail/impl.hpp>", "#include <cache/detail/other.hpp>")
    ours, theirs = (with_line(CODE, '#include "log.h"\n', line) for line in lines)
    world.feature("header", {"a.patch": hook(ours)})
    assert words(onto_code(world, theirs)) == {"header": "conflict"}


def steps(root: Path, text: str, *hooks: str) -> World:
    """Make a world with one more file, and a feature for each of what it becomes."""
    world = make_world(root, {**UPSTREAM, STEPS: text})
    world.paths.vendor.mkdir()
    world.paths.pins.write_text(LOCK.format(name=PIN, tree=world.tree), encoding="utf-8")
    for number, new in enumerate(hooks):
        world.feature(f"f{number}", {"a.patch": diff(STEPS, text, new)})
        text = new
    return world


def test_a_line_that_one_feature_removes_and_another_adds_elsewhere(tmp_path: Path) -> None:
    """The first place looks like what the second hook makes; but upstream has not changed at all."""
    before, after = "open();\nlock();\nread();\n", "unlock();\nclose();\nreturn;\n"
    between = "".join(f"between_{n}();\n" for n in range(9))
    texts = [
        before + first + after + between + before + second + after
        for first, second in (("count();\n", ""), ("", ""), ("", "count();\n"))
    ]
    world = steps(tmp_path, *texts)
    assert words(onto(world, {STEPS: texts[0]})) == {"f0": "clean", "f1": "clean"}


def test_code_that_ends_like_what_it_is_put_behind(tmp_path: Path) -> None:
    """The hunk fits a second time behind what upstream has of it; that would be twice."""
    one = "int one(void) {\n    return first(1);\n    }\n}\n\n"
    two = "int two(void) {\n    return other(2);\n    }\n}\n\n"
    world = steps(tmp_path, one, one + two)
    report = onto(world, {STEPS: "// above\n" + one + two})
    assert words(report) == {"f0": "upstreamed"}
    assert [place.detail for place in places(report, "f0")] == ["it reverses there"]

"""Each word of a rebase, on throw-away revisions of upstream."""

from __future__ import annotations

from pathlib import Path

import pytest
from newer import CACHE, CODE, UPSTREAM, fresh, hook, onto, onto_code, places, swapped, with_line, words
from throwaway import World, diff

from pyllama.errors import PatchError

CLEAR = "    cache->head = 0;\n}\n\nint"
GUARDED = with_line(CODE, "    cache->head = 0;\n    cache->size", "    cache_guard_enter(cache, n_cells);")
RESET = swapped(CODE, CLEAR, "    cache->head = cache_first_free(cache);\n}\n\nint")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return fresh(tmp_path)


def test_clean_and_offset(world: World) -> None:
    world.feature("guard", {"a.patch": hook(GUARDED)}, {"src/guard.h": "void cache_guard_enter();\n"})
    assert words(onto(world, {"README.md": "another\n"})) == {"guard": "clean"}
    report = onto_code(world, "// one more\n// and another\n" + CODE)
    assert words(report) == {"guard": "offset"}
    assert report["guard"].detail == "by up to 2 lines"
    file, one = places(report, "guard")
    assert (file.hook, file.hunk, file.outcome) == ("files/src/guard.h", 0, "clean")
    assert (one.hook, one.file, one.hunk, one.outcome, one.offset) == ("hooks/a.patch", CACHE, 1, "offset", 2)
    assert report["guard"].carried and report.exit_code == 0
    assert [(pair.feature, pair.mark) for pair in report.range_diff] == [("guard", "=")]
    assert report.rebased != report.tree


def test_merged_goes_on_upon_the_merged_tree(world: World) -> None:
    world.feature("guard", {"a.patch": hook(GUARDED)})
    second = swapped(GUARDED, "cache_guard_enter(cache, n_cells)", "cache_guard_enter(cache, 2 * n_cells)")
    world.feature("twice", {"a.patch": hook(second, GUARDED)}, requires=["guard"])
    newer = swapped(CODE, "    cache->cells.clear();\n", "    cache->cells.reset();\n")
    report = onto_code(world, newer)
    assert words(report) == {"guard": "merged", "twice": "merged"}
    assert report["guard"].carried and not report["guard"].would_delete
    assert report.exit_code == 3
    assert [pair.mark for pair in report.range_diff] == ["!", "!"]
    # what came out is both: checked by putting it next to what it should be
    expected = with_line(
        newer, "    cache->head = 0;\n    cache->size", "    cache_guard_enter(cache, 2 * n_cells);"
    )
    (world.root / "expected").mkdir()
    for path, text in {**UPSTREAM, CACHE: expected}.items():
        place = world.root / "expected" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    assert world.store.add(world.root / "expected") == report.rebased


def test_conflict_leaves_the_feature_out(world: World) -> None:
    world.feature("reset", {"a.patch": hook(RESET)})
    world.feature("after", {"a.patch": hook(with_line(RESET, "size_t cache_total", "// after"), RESET)})
    world.feature(
        "needs", {"a.patch": hook(with_line(RESET, "bool cache_init", "// x"), RESET)}, requires=["reset"]
    )
    report = onto_code(world, swapped(CODE, CLEAR, "    cache->head = 1;\n}\n\nint"))
    assert words(report) == {"reset": "conflict", "after": "clean", "needs": "blocked"}
    assert report["needs"].detail == "it requires reset"
    assert not report["reset"].carried and report["after"].carried
    assert report.exit_code == 5
    assert [pair.mark for pair in report.range_diff] == ["<", "=", "<"]
    (place,) = places(report, "reset")
    assert place.line == 22 and newer_line(place.line) == "    cache->head = 1;\n"


def newer_line(number: int) -> str:
    return swapped(CODE, CLEAR, "    cache->head = 1;\n}\n\nint").splitlines(True)[number - 1]


def test_two_hunks_of_one_hook_fare_on_their_own(world: World) -> None:
    world.feature("both", {"a.patch": hook(with_line(RESET, '#include "log.h"', '#include "both.h"'))})
    report = onto_code(world, swapped(CODE, CLEAR, "    cache->head = 1;\n}\n\nint"))
    assert [place.outcome for place in places(report, "both")] == ["clean", "conflict"]
    assert report["both"].detail == "of 2 hunks: 1 clean, 1 conflict"
    assert report.rebased == report.tree


def test_two_hooks_in_one_file(world: World) -> None:
    first, second = GUARDED, with_line(GUARDED, "    cache_guard_enter", "    cache_guard_log(cache);")
    world.feature("both", {"a.patch": hook(first), "b.patch": hook(second, first)})
    report = onto_code(world, "\n" + CODE)
    assert [(p.hook, p.outcome, p.offset) for p in places(report, "both")] == [
        ("hooks/a.patch", "offset", 1),
        ("hooks/b.patch", "offset", 1),
    ]


def test_target_deleted(world: World) -> None:
    world.feature(
        "log",
        {"a.patch": diff("src/log.cpp", UPSTREAM["src/log.cpp"], "int log_all;\n" + UPSTREAM["src/log.cpp"])},
    )
    world.feature("guard", {"a.patch": hook(GUARDED)})
    report = onto(world, {"src/log.cpp": None})
    assert words(report) == {"log": "target-deleted", "guard": "clean"}
    assert (report.exit_code, places(report, "log")[0].detail) == (5, "upstream has deleted src/log.cpp")


@pytest.mark.parametrize("edited", [False, True])
def test_target_moved_to_another_name(world: World, edited: bool) -> None:
    world.feature("guard", {"a.patch": hook(GUARDED)})
    second = swapped(GUARDED, "cache_guard_enter(cache, n_cells)", "cache_guard_enter(cache)")
    world.feature("needs", {"a.patch": hook(second, GUARDED)}, requires=["guard"])
    there = (
        swapped(CODE, "    cache->head = 0;\n    cache->size", "    cache->first = 1;\n    cache->size")
        if edited
        else CODE
    )
    report = onto(world, {CACHE: None, "src/memory/cache.cpp": there})
    (place,) = places(report, "guard")
    assert (place.outcome, place.moved_to) == ("target-moved", "src/memory/cache.cpp")
    if edited:
        assert "does not apply there" in place.detail
        assert words(report) == {"guard": "target-moved", "needs": "blocked"}
        assert report.exit_code == 5
    else:
        assert place.detail.endswith("the hunk applies there")
        assert words(report) == {"guard": "target-moved", "needs": "target-moved"}
        assert report.exit_code == 4 and report["needs"].carried


def test_code_moved_to_another_file(world: World) -> None:
    body = CODE[CODE.index("int cache_find") : CODE.index("size_t cache_total_size")]
    world.feature(
        "find",
        {"a.patch": hook(swapped(CODE, "            return (int) i;", "            return cache_hit(i);"))},
    )
    gone = CODE.replace(body, "")
    report = onto(world, {CACHE: gone, "src/search.cpp": '#include "cache.h"\n\n' + body})
    (place,) = places(report, "find")
    assert (place.outcome, place.moved_to) == ("target-moved", "src/search.cpp")
    assert "the hunk applies there" in place.detail
    assert report["find"].carried and report.exit_code == 4
    # in two files it is nobody's
    report = onto(world, {CACHE: gone, "src/search.cpp": body, "src/again.cpp": body}, "twice")
    assert words(report) == {"find": "conflict"}


def test_code_that_another_file_had_all_along_was_not_moved_there(tmp_path: Path) -> None:
    body = CODE[CODE.index("int cache_find") : CODE.index("size_t cache_total_size")]
    world = fresh(tmp_path / "w")
    world.feature(
        "find",
        {"a.patch": hook(swapped(CODE, "            return (int) i;", "            return cache_hit(i);"))},
    )
    copy = world.root / "upstream/src/copy.cpp"
    copy.write_text(body)
    tree = world.store.add(world.root / "upstream")
    world.paths.pins.write_text(world.paths.pins.read_text().replace(world.tree, tree))
    report = onto(world, {CACHE: CODE.replace(body, ""), "src/copy.cpp": body + "// touched\n"})
    assert words(report) == {"find": "conflict"}


def test_moved_inside_the_file(world: World) -> None:
    """git aligns a moved function badly; its own few lines say where it went."""
    body = CODE[CODE.index("int cache_find") : CODE.index("size_t cache_total_size")]
    world.feature(
        "find",
        {"a.patch": hook(swapped(CODE, "            return (int) i;", "            return cache_hit(i);"))},
    )
    elsewhere = swapped(
        body,
        "int cache_find(const struct cache * cache, int pos) {\n",
        "int cache_find(const struct cache * cache, int pos, int from) {\n",
    )
    moved = CODE.replace(body, "")
    moved = with_line(
        moved, "bool cache_init", *elsewhere.replace("size_t i = 0", "size_t i = from").splitlines()
    )
    report = onto_code(world, moved)
    (place,) = places(report, "find")
    assert place.outcome in ("merged", "offset"), place
    assert report["find"].carried and not report["find"].would_delete


def test_new_file_that_upstream_has_meanwhile(world: World) -> None:
    text = "int guard;\nint ours;\n"
    world.feature("guard", {"a.patch": hook(GUARDED)}, {"src/guard.h": text})
    report = onto(world, {"src/guard.h": "int guard;\nint theirs;\nint more;\n"})
    assert words(report) == {"guard": "conflict"}
    assert [(loss.hook, loss.line, loss.text) for loss in report["guard"].would_delete] == [
        ("files/src/guard.h", 2, "int theirs;"),
        ("files/src/guard.h", 3, "int more;"),
    ]
    report = onto(world, {"src/guard.h": text}, "same")
    assert words(report) == {"guard": "partly-upstreamed"}
    report = onto(world, {"src/guard.h/x.h": "x\n"}, "folder")
    assert words(report) == {"guard": "conflict"}
    report = onto(world, {"src/Guard.h": "x\n"}, "case")
    assert words(report) == {"guard": "conflict"} and "Guard.h" in places(report, "guard")[0].detail


def test_create_and_delete_hooks(world: World) -> None:
    head = "diff --git a/src/made.cpp b/src/made.cpp\nnew file mode 100755\n"
    made = head + "--- /dev/null\n+++ b/src/made.cpp\n@@ -0,0 +1 @@\n+int made;\n"
    head = "diff --git a/LICENSE b/LICENSE\ndeleted file mode 100644\n"
    gone = head + "--- a/LICENSE\n+++ /dev/null\n@@ -1 +0,0 @@\n-a licence\n"
    world.feature("made", {"a.patch": made})
    world.feature("gone", {"a.patch": gone})
    assert words(onto(world, {"README.md": "x\n"})) == {"made": "clean", "gone": "clean"}
    report = onto(world, {"src/made.cpp": "int theirs;\n", "LICENSE": None}, "two")
    assert words(report) == {"made": "conflict", "gone": "upstreamed"}
    report = onto(world, {"src/made.cpp": "int made;\n", "LICENSE": "a licence\nand more\n"}, "three")
    assert words(report) == {"made": "upstreamed", "gone": "conflict"}
    assert [loss.text for loss in report["gone"].would_delete] == ["and more"]
    assert words(onto(world, {"LICENSE": None, "COPYING": "a licence\n"}, "four"))["gone"] == "target-moved"


def test_not_applicable_upstream_and_what_requires_them(world: World) -> None:
    world.feature("old", pin='upstream = "#5"')
    world.feature("never", pin='not-applicable = "no such file"')
    world.feature("on-old", {"a.patch": hook(GUARDED)}, requires=["old"])
    world.feature("on-never", {"a.patch": hook(RESET)}, requires=["never"])
    report = onto(world, {"README.md": "x\n"})
    assert words(report) == {
        "old": "upstreamed",
        "never": "not-applicable",
        "on-old": "clean",
        "on-never": "blocked",
    }
    assert report["never"].detail == "no such file"


def test_a_file_that_a_failed_feature_brings(world: World) -> None:
    world.feature("base", {"a.patch": hook(RESET)}, {"src/base.h": "int a;\nint b;\n"})
    world.feature("on-it", {"a.patch": diff("src/base.h", "int a;\nint b;\n", "int a;\nint c;\nint b;\n")})
    report = onto_code(world, swapped(CODE, CLEAR, "    cache->head = 1;\n}\n\nint"))
    assert words(report) == {"base": "conflict", "on-it": "blocked"}


def test_a_target_that_is_a_link_now(world: World) -> None:
    world.feature("guard", {"a.patch": hook(GUARDED)})
    folder = world.root / "newer"
    (folder / "src").mkdir(parents=True)
    (folder / "src/cache.cpp").symlink_to("real.cpp")
    report = onto(world, {CACHE: None, "src/real.cpp": CODE})
    assert words(report) == {"guard": "conflict"}


def test_a_stack_that_does_not_apply_to_its_own_pin(world: World) -> None:
    world.feature("bad", {"a.patch": hook(RESET, GUARDED)})
    with pytest.raises(PatchError, match=r"feature bad, hook hooks/a\.patch does not apply to pin"):
        onto(world, {"README.md": "x\n"})


def test_a_tree_of_something_else(world: World) -> None:
    world.feature("guard", {"a.patch": hook(GUARDED)})
    gone = dict.fromkeys(UPSTREAM)
    with pytest.raises(PatchError, match="none of the 1 files that the hooks change"):
        onto(world, {**gone, "thesis.txt": "mine\n"})

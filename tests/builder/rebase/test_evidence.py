"""What upstream has by now although the text differs, and what only looks like it."""

from __future__ import annotations

from pathlib import Path

import pytest
from newer import CACHE, CODE, fresh, hook, onto, onto_code, places, swapped, with_line, words
from throwaway import World, diff

CLEAR = "void cache_clear(struct cache * cache) {\n"
INIT = "    cache->head = 0;\n    cache->size = n_cells;\n"
ROWS = [
    "    const size_t n_bytes = cache_total_size(cache);",
    '    cache_log(cache, "clearing %zu bytes", n_bytes);',
]
LOGGED = CODE.replace(CLEAR, CLEAR + "".join(f"{row}\n" for row in ROWS))
"""What the feature of most of these tests makes of the code."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = fresh(tmp_path)
    made.feature("log", {"a.patch": hook(LOGGED)})
    return made


def outcome(world: World, code: str) -> str:
    return words(onto_code(world, code))["log"]


def upstream_has(rows: list[str], code: str = CODE) -> str:
    return code.replace(CLEAR, CLEAR + "".join(f"{row}\n" for row in rows))


def test_the_same_text(world: World) -> None:
    report = onto_code(world, "// above\n" + LOGGED)
    assert words(report) == {"log": "upstreamed"}
    (place,) = places(report, "log")
    assert (place.detail, place.line) == ("it reverses there", 19)
    assert not report["log"].carried and report.exit_code == 0 and report.rebased == report.tree


def test_t6_inside_a_larger_change(world: World) -> None:
    """patch-id misses a change that upstream took inside a larger commit."""
    larger = LOGGED.replace("cells[i].pos", "cells[i].position").replace('"log.h"', '"logging.h"')
    report = onto_code(world, with_line(larger, "bool cache_init", "// about to begin"))
    assert words(report) == {"log": "upstreamed"}
    (place,) = places(report, "log")
    assert place.line is not None and larger.splitlines()[place.line - 2] == ROWS[0]


FORMS = {
    "indented otherwise": [row.replace("    ", "\t") for row in ROWS],
    "wrapped": [
        ROWS[0].replace(" = ", " =\n        "),
        ROWS[1].replace('cache, "', 'cache,\n        "').replace('", n', '",\n        n'),
    ],
    "commented": [ROWS[0] + " // for the log", "    /* and tell\n       them */", ROWS[1]],
    "another variable": [row.replace("n_bytes", "n_total") for row in ROWS],
    "other qualifiers": [ROWS[0].replace("const ", ""), ROWS[1]],
    "with more between": [ROWS[0], "    cache_lock(cache);", ROWS[1], "    cache_unlock(cache);"],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rewritten", [False, True])
def test_said_otherwise(world: World, form: str, rewritten: bool) -> None:
    code = upstream_has(FORMS[form])
    if rewritten:  # nothing around it is as it was
        code = code.replace(
            "    for (size_t i = 0; i < cache->size; ++i) {\n        cache->cells[i].pos = -1;", "    {"
        )
        code = code.replace("}\n\nvoid cache_clear", "}\n\n// forget everything\nvoid cache_clear")
    assert outcome(world, code) == "upstreamed"


def test_moved_to_another_place_of_the_file(world: World) -> None:
    """Three lines of one's own are known again anywhere."""
    body = [
        "static int cache_first_free(const struct cache * cache) {",
        "    return cache_find(cache, -1);",
        "}",
        "",
    ]
    world.feature("free", {"a.patch": hook(with_line(LOGGED, "int cache_find", *body), LOGGED)})
    body[1:2] = ["    const int found = cache_find(cache, -1);", "    return found;"]
    world.feature(
        "more",
        {
            "a.patch": hook(
                with_line(
                    CODE,
                    "size_t cache_total",
                    "int cache_more(int n_more);",
                    "int cache_less(int n_less);",
                    "int cache_same(int n_same);",
                )
            )
        },
    )
    code = with_line(
        CODE,
        "static size_t",
        "int cache_more(int n_more);",
        "int cache_less(int n_less);",
        "int cache_same(int n_same);",
    )
    assert words(onto_code(world, code))["more"] == "upstreamed"


def test_lines_that_were_wrapped_in_ours_are_one_in_theirs(tmp_path: Path) -> None:
    world = fresh(tmp_path)
    rows = ["    cache_log(cache,", '        "clearing %zu bytes",', "        cache_total_size(cache));"]
    world.feature("log", {"a.patch": hook(upstream_has(rows))})
    one = ['    cache_log(cache, "clearing %zu bytes", cache_total_size(cache));']
    assert outcome(world, upstream_has(one)) == "upstreamed"


def test_a_line_that_both_changed_the_same_way(tmp_path: Path) -> None:
    world = fresh(tmp_path)
    old = "        total += cache_row_size(cache, il) * cache->size;\n"
    world.feature("log", {"a.patch": hook(swapped(CODE, old, old.replace("cache->size", "cache->n_used")))})
    theirs = "        total += cache_row_size(cache, il)*cache->n_used; // only these\n"
    assert outcome(world, swapped(CODE, old, theirs)) == "upstreamed"


def test_removed_lines_that_upstream_removed_too(tmp_path: Path) -> None:
    world = fresh(tmp_path)
    gone = "    cache->cells.clear();\n"
    world.feature("log", {"a.patch": hook(swapped(CODE, gone, ""))})
    assert outcome(world, swapped(CODE, gone, "")) == "upstreamed"
    reformatted = swapped(CODE, gone, "").replace(
        "    cache->head = 0;\n    cache->size", "    cache->head  = 0;\n    cache->size"
    )
    assert outcome(fresh_copy(world, tmp_path / "two"), reformatted) == "upstreamed"


def fresh_copy(world: World, root: Path) -> World:
    """The same feature in another world."""
    made = fresh(root)
    made.feature("log", {"a.patch": (world.patches / "log/hooks/a.patch").read_text()})
    return made


LOOK_ALIKES = {
    "another function called": [row.replace("cache_total_size", "cache_row_size") for row in ROWS[:1]],
    "another member": ["    cache_touch(cache);"],
    "another string": [ROWS[1].replace("clearing", "dropping")],
}


@pytest.mark.parametrize("kind", LOOK_ALIKES)
def test_what_only_looks_like_it(tmp_path: Path, kind: str) -> None:
    """One line of ours, and one of upstream's that differs in what matters."""
    world = fresh(tmp_path)
    ours = {
        "another function called": ROWS[0],
        "another member": "    cache_trim(cache);",
        "another string": ROWS[1],
    }
    world.feature("log", {"a.patch": hook(upstream_has([ours[kind]]))})
    assert outcome(world, upstream_has(LOOK_ALIKES[kind])) == "conflict"


def test_a_member_is_no_function(tmp_path: Path) -> None:
    """Upstream has all of it but one thing: it has not made a function of the member yet."""
    world = fresh(tmp_path)
    rows = [
        *ROWS,
        "    for (int il = 0; il < cache->n_layer(); ++il) {",
        "        cache_log(cache, il);",
        "    }",
    ]
    world.feature("log", {"a.patch": hook(upstream_has(rows))})
    theirs = [row.replace("n_layer()", "n_layer") for row in rows]
    assert outcome(world, upstream_has(theirs)) == "partly-upstreamed"


DECLARED = "void cache_reset_all(struct cache * cache, int first, int last);"


@pytest.mark.parametrize(
    "theirs",
    [
        DECLARED.replace("cache_reset_all", "cache_touch_all"),
        DECLARED.replace("int last", "int last, int step"),
        "void cache_other(void);",
    ],
)
def test_a_declaration_beside_ours(tmp_path: Path, theirs: str) -> None:
    world = fresh(tmp_path)
    world.feature("log", {"a.patch": hook(with_line(CODE, "int cache_find", DECLARED))})
    found = outcome(world, with_line(CODE, "int cache_find", theirs))
    assert found != "upstreamed"


def test_the_same_call_in_another_function(tmp_path: Path) -> None:
    """Ours is still missing where it belongs."""
    world = fresh(tmp_path)
    call = "    cache_guard_enter(cache);"
    world.feature("log", {"a.patch": hook(with_line(CODE, INIT, call))})
    elsewhere = with_line(CODE, "    size_t total = 0;", call)
    assert outcome(world, elsewhere) == "clean"
    assert outcome(fresh_copy(world, tmp_path / "two"), "// x\n" + elsewhere) == "offset"


def test_lines_that_were_there_at_the_pin_are_no_evidence(tmp_path: Path) -> None:
    world = fresh(tmp_path)
    world.feature("log", {"a.patch": hook(with_line(CODE, "    size_t total = 0;", "    cache->head = 0;"))})
    touched = CODE.replace("    cache->head = 0;\n}", "    cache->head =  0;\n}")
    assert outcome(world, touched) == "clean"


def test_trivial_lines_are_no_evidence(tmp_path: Path) -> None:
    world = fresh(tmp_path)
    ours = with_line(
        CODE,
        "    cache->head = 0;\n    cache->size",
        "    if (!cache_ok(cache)) {",
        "        return false;",
        "    }",
    )
    world.feature("log", {"a.patch": hook(ours)})
    theirs = with_line(
        CODE,
        "    cache->head = 0;\n    cache->size",
        "    if (n_cells == 0) {",
        "        return false;",
        "    }",
    )
    assert outcome(world, theirs) == "conflict"


def test_a_line_that_upstream_changed_another_way(tmp_path: Path) -> None:
    """Both come from one line, so they are alike; that is no reason to take one for the other."""
    world = fresh(tmp_path)
    old = "        total += cache_row_size(cache, il) * cache->size;\n"
    world.feature("log", {"a.patch": hook(swapped(CODE, old, old.replace("cache->size", "cache->n_used")))})
    assert outcome(world, swapped(CODE, old, old.replace("(cache, il)", "(cache, il + 1)"))) == "conflict"


def test_a_second_copy_of_the_code_has_it(tmp_path: Path) -> None:
    """The function that the hook is for is as it was."""
    world = fresh(tmp_path)
    body = CODE[CODE.index("int cache_find") : CODE.index("size_t cache_total_size")]
    ours = body.replace("(int) i;", "cache_hit(i);")
    world.feature("log", {"a.patch": hook(CODE.replace(body, ours))})
    assert outcome(world, CODE + "\n" + ours.replace("cache_find", "cache_find2")) == "clean"


def test_half_of_the_hunks(tmp_path: Path) -> None:
    world = fresh(tmp_path)
    ours = with_line(LOGGED, "    size_t total = 0;", "    cache_guard_enter(cache);")
    world.feature("log", {"a.patch": hook(ours)})
    world.feature(
        "needs", {"a.patch": hook(with_line(ours, "bool cache_init", "// x"), ours)}, requires=["log"]
    )
    report = onto_code(world, LOGGED)
    assert words(report) == {"log": "partly-upstreamed", "needs": "clean"}
    assert [place.outcome for place in places(report, "log")] == ["upstreamed", "clean"]
    assert report["log"].carried and report.exit_code == 4
    assert [(pair.feature, pair.mark) for pair in report.range_diff] == [("log", "!"), ("needs", "=")]


def test_half_of_a_hunk(world: World) -> None:
    code = upstream_has(ROWS[:1]).replace("cells[i].pos = -1", "cells[i].pos = -2")
    report = onto_code(world, code)
    (place,) = places(report, "log")
    assert (words(report), place.detail) == ({"log": "partly-upstreamed"}, "upstream added 1 of its 2 lines")


def test_t3_the_second_feature_rewrites_the_lines_of_the_first(world: World) -> None:
    """Asked by itself, the first would say that it is not there."""
    second = LOGGED.replace("clearing %zu bytes", "dropping %zu bytes")
    world.feature("word", {"a.patch": hook(second, LOGGED)}, requires=["log"])
    assert words(onto_code(world, second)) == {"log": "upstreamed", "word": "upstreamed"}
    assert words(onto(world, {CACHE: LOGGED}, "first")) == {"log": "upstreamed", "word": "clean"}
    assert words(onto(world, {CACHE: CODE}, "none")) == {"log": "clean", "word": "clean"}
    otherwise = second.replace("    const size_t n_bytes", "    size_t n_bytes").replace(
        "cells[i].pos = -1", "cells[i].pos = -2"
    )
    assert words(onto(world, {CACHE: otherwise}, "otherwise")) == {"log": "upstreamed", "word": "upstreamed"}


def test_in_a_file_of_another_name(world: World) -> None:
    report = onto(world, {CACHE: None, "src/memory.cpp": LOGGED})
    (place,) = places(report, "log")
    assert (place.outcome, place.moved_to) == ("upstreamed", "src/memory.cpp")
    assert words(report) == {"log": "upstreamed"}


def contracted(world: World, name: str, contract: str) -> None:
    file = world.patches / name / "feature.toml"
    text = file.read_text()
    start, end = text.index("symbols ="), text.index("[pins.")
    file.write_text(text[:start] + contract + "\n" + text[end:])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("int cache_drop(int a);\n#define CACHE_DROP 1\n", "upstreamed"),
        ("int cache_drop(int a);\n", "partly-upstreamed"),
        ("// int cache_drop(int a);\n/* CACHE_DROP\n#define CACHE_DROP */\n", "clean"),
        ("int cache_dropped(int a);\n#define CACHE_DROPPED CACHE_DROP\n", "clean"),
    ],
)
def test_the_contract(world: World, header: str, expected: str) -> None:
    contracted(world, "log", 'symbols = [{library = "llama", name = "cache_drop"}]\nmacros = ["CACHE_DROP"]')
    old = "#pragma once\nint llama_init(void);\n"
    report = onto(world, {"include/llama.h": old + header})
    assert words(report) == {"log": expected}
    if expected == "upstreamed":
        assert report["log"].detail == (
            "upstream declares cache_drop in include/llama.h, CACHE_DROP in include/llama.h"
        )


def test_a_contract_that_the_pin_kept_already(world: World) -> None:
    contracted(world, "log", 'symbols = [{library = "llama", name = "llama_init"}]')
    assert words(onto(world, {"README.md": "x\n"})) == {"log": "clean"}


def test_a_contract_that_only_our_own_file_keeps(world: World) -> None:
    world.feature(
        "drop", {"a.patch": hook("// x\n" + LOGGED, LOGGED)}, {"include/drop.h": "int cache_drop(void);\n"}
    )
    contracted(world, "drop", 'symbols = [{library = "llama", name = "cache_drop"}]')
    assert words(onto(world, {"README.md": "x\n"})) == {"log": "clean", "drop": "clean"}


def test_cmake(tmp_path: Path) -> None:
    world = fresh(tmp_path)
    old = "add_library(llama\n    cache.cpp\n    log.cpp\n    model.cpp)\n"
    world.feature(
        "file", {"a.patch": diff("CMakeLists.txt", old, old.replace("log.cpp", "guard.cpp\n    log.cpp"))}
    )
    assert words(onto(world, {"CMakeLists.txt": old.replace("log.cpp", "graph.cpp\n    log.cpp")})) == {
        "file": "conflict"
    }
    has = old.replace("log.cpp", "guard.cpp # new\n    graph.cpp\n    log.cpp")
    assert words(onto(world, {"CMakeLists.txt": has}, "has")) == {"file": "upstreamed"}


GUARD = [
    "    const struct guard guard = cache_guard(cache);",
    "    if (guard_idle(guard)) {",
    "        guard_leave(guard, cache);",
    "    }",
]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_of_several_places_with_the_same_lines(tmp_path: Path, at: int) -> None:
    """Upstream has it in one function, in other words; the others still need it."""
    world = fresh(tmp_path)
    starts = [
        INIT,
        "    for (size_t i = 0; i < cache->size; ++i) {\n        cache->cells[i].pos",
        "    size_t total = 0;\n",
    ]
    ours = theirs = CODE
    for number, start in enumerate(starts):
        ours = with_line(ours, start, *GUARD)
        if number == at:
            theirs = with_line(theirs, start, "// " + "-" * 20, *GUARD[:3], "    /* done */ }")
    world.feature("log", {"a.patch": hook(ours)})
    report = onto_code(world, theirs)
    assert [n for n, place in enumerate(places(report, "log")) if place.outcome == "upstreamed"] == [at]

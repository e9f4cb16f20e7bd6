"""What a fork carries on top of ours: features, and pins that are like ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from throwaway import PIN, World, change, make_world

from pyllama.builder import project
from pyllama.builder.paths import locate
from pyllama.builder.progress import Reporter
from pyllama.builder.stack.apply import apply
from pyllama.errors import PatchError, UsageError

LOCK = """default = "{default}"
[[pin]]
name = "{name}"
commit = "{commit}"
tree = "{tree}"
date = "2026-01-01"
why = "a test"
{more}
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = make_world(tmp_path)
    made.feature("ours", hooks={"x.patch": change(5, "ours")})
    made.paths.vendor.mkdir()
    write_lock(made.paths.pins, PIN, made.tree)
    return made


def write_lock(path: Path, name: str, tree: str, more: str = "", default: str = "") -> None:
    path.write_text(
        LOCK.format(default=default or name, name=name, commit="1" * 40, tree=tree, more=more),
        encoding="utf-8",
    )


def fork(world: World) -> World:
    """A second series, in a folder of its own."""
    (world.root / "fork").mkdir()
    made = World(world.root / "fork", world.store, world.tree)
    made.series()
    return made


def opened(world: World, *on_top: Path) -> project.Project:
    paths = world.paths
    return project.load(
        type(paths)(paths.pins, paths.patches, paths.vendor, paths.build, paths.cache, on_top)
    )


def test_a_series_on_top_is_treated_like_ours(world: World) -> None:
    theirs = fork(world)
    theirs.feature("theirs", hooks={"x.patch": change(20, "theirs")}, requires=["ours"])
    both = opened(world, theirs.patches)
    pin = both.pin()
    assert [feature.name for feature in both.select(pin, ["theirs"])] == ["ours", "theirs"]
    done = apply(pin.name, pin.tree, both.select(pin, "all"), both.paths, world.store, Reporter(quiet=True))
    text = (done.folder / "src/main.cpp").read_text().splitlines()
    assert (text[4], text[19]) == ("ours", "theirs")


def test_a_name_that_is_ours_is_refused(world: World) -> None:
    theirs = fork(world)
    theirs.feature("ours", hooks={"x.patch": change(20, "theirs")})
    with pytest.raises(PatchError, match="in two series"):
        opened(world, theirs.patches)


def test_a_pin_on_top_is_served_by_the_hooks_of_the_one_that_it_is_like(world: World) -> None:
    source = world.root / "newer"
    world.store.checkout(world.tree, source)
    (source / "docs" / "read me.md").write_text("three\n")
    theirs = fork(world)
    newer = world.store.add(source)
    write_lock(theirs.patches / "pins.toml", "newer", newer, f'like = "{PIN}"')
    both = opened(world, theirs.patches)
    pin = both.pin("newer")
    assert both.pin() == pin, "its default goes first"
    assert [feature.name for feature in both.select(pin, "all")] == ["ours"]
    done = apply(pin.name, pin.tree, both.select(pin, "all"), both.paths, world.store, Reporter(quiet=True))
    assert (done.folder / "src/main.cpp").read_text().splitlines()[4] == "ours"
    assert (done.folder / "docs/read me.md").read_text() == "three\n"


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        (PIN, "", "is there twice"),
        ("newer", 'like = "older"', "is like 'older', which is no pin"),
        ("newer", 'like = "newer"', "is like 'newer', which is no pin"),
    ],
)
def test_pins_on_top_that_make_no_sense_are_refused(world: World, name: str, more: str, message: str) -> None:
    theirs = fork(world)
    write_lock(theirs.patches / "pins.toml", name, world.tree, more)
    with pytest.raises(UsageError, match=message):
        opened(world, theirs.patches)


def test_the_environment_names_series_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    monkeypatch.setenv("PYLLAMA_SERIES", f"{one}:{two}")
    assert locate([two, tmp_path / "three"]).on_top == (one, two, tmp_path / "three")

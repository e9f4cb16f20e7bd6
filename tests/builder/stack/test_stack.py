"""The key of a patched tree, and the stack as commits."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from throwaway import PIN, World, change, make_world

from pyllama.builder.stack.commit import commit_stack
from pyllama.builder.stack.features import select
from pyllama.builder.stack.key import key


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = make_world(tmp_path / "here")
    made.feature("one", {"a.patch": change(3, "x")}, {"src/new.cpp": "int n;\n"})
    made.feature(
        "gone", {"unused.patch": change(9, "x")}, {"src/unused.cpp": "int u;\n"}, pin='upstream = "#2"'
    )
    made.feature("two", {"a.patch": change(20, "y")}, requires=["one"])
    return made


def key_of(world: World, wanted: str | list[str] = "all") -> str:
    return key(world.tree, select(world.stack(), PIN, wanted), PIN)


def test_the_key_is_of_content_only(world: World, tmp_path: Path) -> None:
    first = key_of(world)
    assert re.fullmatch(r"[0-9a-f]{64}", first)
    shutil.copytree(world.patches, tmp_path / "there" / "patches")
    for path in (tmp_path / "there").rglob("*"):
        os.utime(path, (1, 1))
    assert key_of(World(tmp_path / "there", world.store, world.tree)) == first
    toml = world.patches / "one/feature.toml"
    toml.write_text(toml.read_text().replace("About one", "Anything") + "# more\n")
    (world.patches / "gone/files/src/unused.cpp").write_text("int v;\n")
    assert key_of(world) == first


def test_the_key_sees_every_difference(world: World) -> None:
    keys = [key_of(world), key_of(world, "none"), key_of(world, ["one"]), key("0" * 40, (), PIN)]
    (world.patches / "one/files/src/new.cpp").chmod(0o755)
    keys.append(key_of(world))
    (world.patches / "one/files/src/new.cpp").write_text("int m;\n")
    keys.append(key_of(world))
    (world.patches / "one/files/src/new.cpp").rename(world.patches / "one/files/src/neu.cpp")
    keys.append(key_of(world))
    (world.patches / "two/hooks/a.patch").write_text(change(20, "z"))
    keys.append(key_of(world))
    world.series("gone", "one", "two")
    keys.append(key_of(world))
    assert len(set(keys)) == len(keys)


def test_t5_the_commits_are_the_same_every_time(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = select(world.stack(), PIN, "all")
    first = commit_stack(PIN, world.tree, stack, world.store)
    assert [commit.feature for commit in first] == [None, "one", "two"]
    monkeypatch.setenv("GIT_AUTHOR_NAME", "someone")
    monkeypatch.setenv("GIT_COMMITTER_DATE", "1234567890 +0200")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text("[user]\nname = other\nemail = o@o\n[commit]\ngpgsign = true\n")
    other = make_world(tmp_path / "elsewhere")
    assert commit_stack(PIN, other.tree, stack, other.store) == first
    text = other.store.repo.run("cat-file", "commit", first[2].id).out
    assert text.startswith(f"tree {first[2].tree}\nparent {first[1].id}\nauthor pyllama ")
    for trailer in (
        "Feature: two",
        "Origin: #1",
        "Upstream-Status: pending",
        "Requires: one",
        "License: MIT",
    ):
        assert f"{trailer}\n" in text
    assert first[-1].tree == world.apply().tree

"""Applying is a transaction: whole or not at all, in any surroundings, killed at any moment."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from throwaway import MAIN, PIN, UPSTREAM, World, change, changed, diff, make_world

import pyllama.builder.stack.apply as apply_module
from pyllama.builder.stack.apply import PatchedTree
from pyllama.errors import PatchError


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = make_world(tmp_path)
    made.feature("one", {"a.patch": change(3, "x")}, {"src/new.cpp": "int n;\n", "run.sh": "#!/bin/sh\n"})
    (made.patches / "one/files/run.sh").chmod(0o755)
    made.feature(
        "two", {"a.patch": change(20, "y"), "b.patch": change(3, "X", changed(3, "x"))}, requires=["one"]
    )
    return made


EXPECTED = changed(20, "y", changed(3, "X"))


def check(world: World, made: PatchedTree) -> None:
    assert (made.folder / "src/main.cpp").read_text() == EXPECTED
    assert (made.folder / "src/new.cpp").read_text() == "int n;\n"
    assert (made.folder / "run.sh").stat().st_mode & 0o111
    assert not (made.folder / "src/new.cpp").stat().st_mode & 0o111
    assert world.store.differences(made.tree, made.folder) == []
    assert json.loads((made.folder.parent / "tree.json").read_text()) == {
        "schema": 1,
        "pin": PIN,
        "base": world.tree,
        "key": made.key,
        "features": ["one", "two"],
        "tree": made.tree,
    }
    assert world.leftovers() == []


def test_apply_and_again(world: World) -> None:
    made = world.apply()
    check(world, made)
    assert made.folder == world.paths.build / f"{PIN}-{made.key[:12]}" / "tree"
    stamps = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}
    assert world.apply() == made
    assert {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")} == stamps
    stock = world.apply("none")
    assert (stock.tree, stock.features) == (world.tree, ())
    assert (stock.folder / "src/main.cpp").read_text() == MAIN
    assert stock.folder != made.folder


def test_what_lies_beside_the_tree_stays(world: World) -> None:
    made = world.apply()
    build = made.folder.parent / "cpu" / "build.ninja"
    build.parent.mkdir()
    build.write_text("x")
    shutil.rmtree(made.folder)
    assert world.apply() == made
    assert build.read_text() == "x"


def test_t1_inside_another_repository(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, a plain `git apply` changes nothing and exits 0."""
    subprocess.run(["git", "init", "-q", str(world.root)], check=True)
    monkeypatch.setenv("GIT_DIR", str(world.root / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(world.root / ".git/index"))
    world.paths.build.mkdir()
    monkeypatch.chdir(world.paths.build)
    made = world.apply()
    check(world, made)
    assert not (world.root / ".git/index").exists()
    (made.folder / "src/main.cpp").write_text(MAIN)
    with pytest.raises(PatchError, match="1 file "):
        world.apply()
    shutil.rmtree(made.folder)
    check(world, world.apply())


def test_t9_beside_a_gitfile_that_dangles(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.paths.build.mkdir()
    for folder in (world.root, world.paths.build):
        (folder / ".git").write_text("gitdir: ../nowhere\n")
    monkeypatch.chdir(world.paths.build)
    made = world.apply()
    check(world, made)
    (made.folder / ".git").write_text("gitdir: ../nowhere\n")
    with pytest.raises(PatchError, match=r"\(\.git\)"):
        world.apply()


def test_an_edited_tree_is_refused_and_untouched(world: World) -> None:
    made = world.apply()
    (made.folder / "src/main.cpp").write_text("mine\n")
    (made.folder / "extra.txt").write_text("mine too\n")
    (made.folder / "docs/read me.md").unlink()
    (made.folder / "CMakeLists.txt").chmod(0o755)
    for _ in range(2):
        with pytest.raises(PatchError, match=r"4 files in .*: keep what you need") as caught:
            world.apply()
        assert "CMakeLists.txt, docs/read me.md, extra.txt, …" in str(caught.value)
    assert (made.folder / "src/main.cpp").read_text() == "mine\n"
    assert (made.folder / "extra.txt").read_text() == "mine too\n"
    shutil.rmtree(made.folder)
    check(world, world.apply())


def test_an_edited_tree_survives_a_lost_cache(world: World) -> None:
    made = world.apply()
    shutil.rmtree(world.paths.cache)
    fresh = make_world(world.root)
    world.series("one", "two")
    assert world.apply() == made
    (made.folder / "src/main.cpp").write_text("mine\n")
    shutil.rmtree(world.paths.cache)
    fresh = make_world(world.root)
    world.series("one", "two")
    with pytest.raises(PatchError, match="1 file "):
        World(world.root, fresh.store, fresh.tree).apply()
    assert (made.folder / "src/main.cpp").read_text() == "mine\n"


def test_a_same_sized_edit_within_a_clock_tick_is_seen(world: World) -> None:
    made = world.apply()
    path = made.folder / "src/new.cpp"
    before = path.stat()
    path.write_text("int m;\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(PatchError, match=r"src/new\.cpp"):
        world.apply()


@pytest.mark.parametrize("fault", ["missing", "empty", "noise", "locked", "stock", "touched"])
def test_the_index_is_only_a_cache(world: World, fault: str) -> None:
    stock = world.apply("none")
    made = world.apply()
    index = made.folder.parent / "tree.index"
    if fault == "missing":
        index.unlink()
    elif fault == "empty":
        index.write_bytes(b"")
    elif fault == "noise":
        index.write_bytes(b"DIRC" + bytes(200))
    elif fault == "stock":
        shutil.copy(stock.folder.parent / "tree.index", index)
    else:
        if fault == "locked":
            (index.parent / "tree.index.lock").write_bytes(b"")
        for path in made.folder.rglob("*.cpp"):
            os.utime(path)
    assert world.apply() == made
    assert world.apply() == made
    (made.folder / "src/new.cpp").write_text("int m;\n")
    with pytest.raises(PatchError, match="1 file "):
        world.apply()


@pytest.mark.parametrize("fault", ["no stamp", "no folder", "noise", "other key", "partial", "temporary"])
def test_an_unfinished_tree_is_made_again(world: World, fault: str) -> None:
    made = world.apply()
    stamp = made.folder.parent / "tree.json"
    if fault == "no stamp":
        stamp.unlink()
    elif fault == "no folder":
        shutil.rmtree(made.folder)
    elif fault == "noise":
        stamp.write_text("{")
    elif fault == "other key":
        stamp.write_text(stamp.read_text().replace(made.key, "0" * 64))
    elif fault == "partial":
        stamp.unlink()
        (made.folder / "src/main.cpp").unlink()
        (made.folder / "src/new.cpp").write_text("in")
    else:
        shutil.rmtree(made.folder)
        (made.folder.parent / ".tree.abc" / "tree").mkdir(parents=True)
        (made.folder.parent / ".tree.json.xyz").write_text("{")
        (made.folder.parent / ".tree.index.xyz").write_text("{")
    again = world.apply()
    assert again == made
    check(world, again)


def refused(world: World, *words: str) -> None:
    def there() -> list[str]:
        return sorted(path.name for path in world.paths.build.glob("[!.]*"))

    before = there()
    with pytest.raises(PatchError) as caught:
        world.apply()
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text
    assert there() == before


def test_a_hook_that_does_not_apply(world: World) -> None:
    good = world.apply()
    folder = world.feature("three", {"a.patch": change(3, "z")})
    words = ("feature three", "hooks/a.patch", PIN, "src/main.cpp:1", "git: ", "does not apply")
    refused(world, *words, "`pyllama patches status`")
    (folder / "hooks/a.patch").write_text(diff("src/none.cpp", MAIN, EXPECTED))
    refused(world, "feature three", "src/none.cpp", "does not exist")
    (folder / "hooks/a.patch").write_text(change(20, "z", changed(20, "almost")))
    refused(world, "feature three")
    (folder / "hooks/b.patch").write_text(change(9, "no", changed(9, "almost")))
    (folder / "hooks/a.patch").write_text(change(27, "fits"))
    toml = folder / "feature.toml"
    toml.write_text(toml.read_text().replace('"hooks/a.patch"', '"hooks/a.patch", "hooks/b.patch"'))
    refused(world, "feature three, hook hooks/b.patch does not apply", "src/main.cpp:6")
    assert world.apply(["two"]) == good
    check(world, good)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("src/main.cpp", "the tree has src/main.cpp already"),
        ("SRC/extra.cpp", "the tree has src already"),
        ("src/MAIN.cpp", "the tree has src/main.cpp already"),
        ("src", "the tree has src already"),
        ("src/main.cpp/x", "the tree has src/main.cpp already"),
        ("src/new.cpp", "the tree has src/new.cpp already"),
    ],
)
def test_new_files_never_replace_anything(world: World, path: str, words: str) -> None:
    folder = world.feature("three", files={path: "int t;\n"})
    refused(world, "feature three", words)
    shutil.rmtree(folder / "files")
    new = f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n"
    new += "@@ -0,0 +1 @@\n+t\n"
    (folder / "hooks/c.patch").write_text(new)
    toml = folder / "feature.toml"
    toml.write_text(toml.read_text().replace("hooks = []", 'hooks = ["hooks/c.patch"]'))
    refused(world, "feature three", words)


def test_hooks_may_add_and_delete_and_bytes_stay(tmp_path: Path) -> None:
    odd = {
        "crlf.txt": "a\r\nb\r\n",
        ".gitattributes": "* text=auto eol=crlf\n*.txt ident\n",
        "id.txt": "$Id$\n",
    }
    world = make_world(tmp_path, {**UPSTREAM, **odd})
    gone = "diff --git a/src/other.cpp b/src/other.cpp\ndeleted file mode 100644\n"
    gone += diff("src/other.cpp", UPSTREAM["src/other.cpp"], "").replace(
        "+++ b/src/other.cpp", "+++ /dev/null"
    )
    gone = gone.replace("diff --git a/src/other.cpp b/src/other.cpp\n---", "---")
    world.feature("one", {"a.patch": gone, "b.patch": diff("crlf.txt", "a\r\nb\r\n", "a\r\nc\r\n")})
    made = world.apply()
    assert not (made.folder / "src/other.cpp").exists()
    with (made.folder / "crlf.txt").open(newline="") as stream:
        assert stream.read() == "a\r\nc\r\n"
    assert (made.folder / "id.txt").read_text() == "$Id$\n"
    assert world.apply() == made


def test_a_feature_without_effect_and_one_that_upstream_has(world: World) -> None:
    world.feature("gone", files={"src/unused.cpp": "int u;\n"}, pin='upstream = "#2"')
    made = world.apply()
    assert made.features == ("one", "two", "gone")
    assert not (made.folder / "src/unused.cpp").exists()
    world.feature("idle", pin="hooks = []")
    refused(world, "feature idle changes nothing")


def test_the_pristine_tree_is_not_in_the_cache(world: World) -> None:
    refused(World(world.root, world.store, "0" * 40), "run `pyllama fetch 2026-10`")


def test_a_failure_while_writing_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(name: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(apply_module, "_step", full)
        refused(world, "No space left on device", "can't be written")
    check(world, world.apply())


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process and return its process id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def dies_at(world: World, step: int) -> Callable[[], None]:
    """Return a job that dies just before its `step`-th git command, rename, or removal."""

    def work() -> None:
        left = step

        def counted(real: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object, **kwargs: object) -> object:
                nonlocal left
                left -= 1
                if left == 0:
                    os._exit(9)
                return real(*args, **kwargs)

            return call

        for owner, names in (
            (os, ("rename", "replace", "fsync")),
            (subprocess, ("run",)),
            (shutil, ("rmtree",)),
        ):
            for name in names:
                setattr(owner, name, counted(getattr(owner, name)))
        apply_module._step = counted(apply_module._step)  # type: ignore[assignment]
        world.apply()

    return work


@pytest.mark.parametrize("start", ["nothing", "unfinished", "finished"])
def test_killed_at_each_step(world: World, start: str) -> None:
    stock = world.apply("none")
    made = world.apply()
    for step in range(1, 200):
        if start == "nothing":
            shutil.rmtree(made.folder.parent)
        elif start == "unfinished":
            (made.folder.parent / "tree.json").unlink()
        code = exit_code(in_child(dies_at(world, step)))
        if start == "finished":
            check_files = (made.folder / "src/main.cpp").read_text()
            assert check_files == EXPECTED
        assert world.apply() == made
        assert world.leftovers() == []
        if code == 0:
            break
        assert code == 9
    else:
        pytest.fail("the job never came to its end")
    assert step > 3
    check(world, made)
    assert world.apply("none") == stock


def test_killed_at_random_moments(world: World) -> None:
    made = world.apply()
    random.seed(7)
    for _ in range(8):
        shutil.rmtree(made.folder.parent)
        pid = in_child(world.apply)
        time.sleep(random.uniform(0.01, 0.15))
        os.kill(pid, signal.SIGKILL)
        exit_code(pid)
        assert world.apply() == made
        check(world, made)


def test_many_at_once(world: World) -> None:
    pids = [in_child(world.apply) for _ in range(4)]
    assert [exit_code(pid) for pid in pids] == [0, 0, 0, 0]
    check(world, world.apply())

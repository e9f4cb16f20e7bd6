"""Each format, applied with its own tool to a pristine tree, gives the tree that `apply` gives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from throwaway import PIN, UPSTREAM, World, change, changed, make_world

from pyllama.builder.git import environment
from pyllama.builder.stack.export import FORMATS, export
from pyllama.builder.stack.features import select
from pyllama.builder.tree import TreeStore
from pyllama.errors import PatchError, UsageError


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two features of which the second changes what the first wrote; one brings a file."""
    made = make_world(tmp_path)
    made.feature("first", hooks={"x.patch": change(5, "first")}, files={"src/new file.cpp": "int x;\n"})
    second = change(5, "second", changed(5, "first"))
    made.feature("second", hooks={"x.patch": second}, requires=["first"])
    return made


def write(world: World, form: str, out: Path, wanted: str | list[str] = "all") -> str:
    return export(PIN, world.tree, select(world.stack(), PIN, wanted), world.store, form, out)


def pristine(folder: Path) -> Path:
    for name, text in UPSTREAM.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(*command: str | Path, cwd: Path, stdin: bytes = b"", **env: str) -> None:
    words = {**environment(), "HOME": str(cwd), **env}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=words, input=stdin, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def repository(folder: Path) -> Path:
    pristine(folder)
    run("git", "init", "-q", ".", cwd=folder)
    for setting in (("user.name", "x"), ("user.email", "x@x")):
        run("git", "config", *setting, cwd=folder)
    run("git", "add", "-A", ".", cwd=folder)
    run("git", "commit", "-q", "-m", "x", cwd=folder)
    return folder


def tree_of(folder: Path, scratch: Path) -> str:
    for rest in (".git", ".pc"):
        shutil.rmtree(folder / rest, ignore_errors=True)
    return TreeStore(scratch / "store.git").add(folder)


@pytest.mark.parametrize("wanted", ["all", ["first"]])
@pytest.mark.parametrize("form", FORMATS)
def test_its_own_tool_gives_the_same_tree(
    world: World, tmp_path: Path, form: str, wanted: str | list[str]
) -> None:
    out, folder = tmp_path / "out", tmp_path / "there"
    expected = write(world, form, out, wanted)
    assert expected == world.apply(wanted).tree != world.tree
    if form == "mbox":
        run("git", "am", "-q", out, cwd=repository(folder))
    elif form == "diff":
        run("patch", "-p1", "-s", cwd=pristine(folder), stdin=out.read_bytes())
    elif form == "quilt":
        if shutil.which("quilt") is None:
            pytest.skip("quilt is not installed")
        run(
            "quilt", "push", "-a", "-q", cwd=pristine(folder), QUILT_PATCHES=str(out), PATH=os.environ["PATH"]
        )
    else:
        run("git", "fetch", "-q", out, f"pyllama/{PIN}:theirs", cwd=repository(folder))
        run("git", "checkout", "-q", "theirs", cwd=folder)
    assert tree_of(folder, tmp_path) == expected


@pytest.mark.parametrize("form", FORMATS)
def test_twice_gives_the_same_bytes(world: World, tmp_path: Path, form: str) -> None:
    seen = []
    for name in ("one", "two"):
        out = tmp_path / name
        write(world, form, out)
        files = sorted(out.iterdir()) if out.is_dir() else [out]
        seen.append([file.read_bytes() for file in files])
    assert seen[0] == seen[1] and all(seen[0])


def test_commits_carry_the_trailers(world: World, tmp_path: Path) -> None:
    write(world, "mbox", tmp_path / "mbox")
    text = (tmp_path / "mbox").read_text()
    assert text.count("\nFrom: pyllama") == 2
    for trailer in ("Feature: first", "Feature: second", "Requires: first", "License: MIT"):
        assert f"\n{trailer}\n" in text
    write(world, "quilt", tmp_path / "quilt")
    assert (tmp_path / "quilt" / "series").read_text() == "first.patch\nsecond.patch\n"
    assert "Feature: second\n" in (tmp_path / "quilt" / "second.patch").read_text()


@pytest.mark.parametrize("form", FORMATS[:3])
def test_no_feature_is_an_empty_export(world: World, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    assert write(world, form, out, "none") == world.tree
    assert (out / "series" if form == "quilt" else out).read_bytes() == b""


def test_nothing_of_anybodys_is_overwritten(world: World, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        write(world, "quilt", mine)
    with pytest.raises(UsageError, match="no format is called 'floppy'"):
        write(world, "floppy", tmp_path / "out")
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]
    assert not (tmp_path / "out").exists()


def test_a_hook_that_does_not_apply_leaves_the_last_export(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(world, "diff", out)
    before = out.read_bytes()
    hook = change(5, "x", changed(5, "not upstream's"))
    (world.patches / "first" / "hooks" / "x.patch").write_text(hook)
    with pytest.raises(PatchError):
        write(world, "diff", out)
    assert out.read_bytes() == before
    assert not list(tmp_path.glob(".out.*"))


def dies_at(step: int, work: Callable[[], object]) -> int:
    """Run a job in a child that is killed just before its `step`-th command or change of a file."""
    pid = os.fork()
    if pid == 0:
        left = step

        def counted(real: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object, **kwargs: object) -> object:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)

            return call

        for owner, names in (
            (os, ("replace", "mkdir", "rmdir")),
            (subprocess, ("run",)),
            (shutil, ("rmtree",)),
            (Path, ("write_bytes", "write_text", "mkdir", "rmdir")),
        ):
            for name in names:
                setattr(owner, name, counted(getattr(owner, name)))
        try:
            work()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def held(out: Path) -> dict[str, bytes]:
    files = sorted(out.iterdir()) if out.is_dir() else [out] if out.exists() else []
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("form", FORMATS)
def test_killed_at_each_step(world: World, tmp_path: Path, form: str) -> None:
    """What was there is there still, or the new one is whole; the next run ends as if nothing had been."""
    write(world, form, tmp_path / "new")
    write(world, form, tmp_path / "old", ["first"])
    new, old = held(tmp_path / "new"), held(tmp_path / "old")
    new = {name.replace("new", "out"): data for name, data in new.items()}
    old = {name.replace("old", "out"): data for name, data in old.items()} if form != "quilt" else {}
    for step in range(1, 100):
        out = tmp_path / f"{step}" / "out"
        if form != "quilt":  # that one is only written where nothing is
            write(world, form, out, ["first"])
        code = dies_at(step, lambda out=out: write(world, form, out))  # type: ignore[misc]
        assert held(out) in (old, new)
        if code == 0 or held(out) == new:
            assert held(out) == new
        else:
            write(world, form, out)
            assert held(out) == new
        if code == 0:
            break
        assert code == -signal.SIGKILL
    else:
        pytest.fail("the job never came to its end")
    assert step > 8

"""`pyllama patches rebase`: what may be given, what comes out, and that nothing is touched."""

from __future__ import annotations

import argparse
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from newer import CACHE, CODE, LOCK, fresh, hook, revision, swapped, with_line
from throwaway import PIN, World

from pyllama.builder.commands import add_commands, run_command

OTHER = "other"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Three features: one that always fits, and two of which the second needs the first."""
    made = fresh(tmp_path)
    made.feature("always", {"a.patch": hook(CODE + "\n// the end\n")})
    first = (
        swapped(CODE, "            return (int) i;\n", "            return cache_hit(i);\n")
        + "\n// the end\n"
    )
    made.feature("find", {"a.patch": hook(first, CODE + "\n// the end\n")})
    made.feature(
        "needs", {"a.patch": hook(with_line(first, "int cache_find", "// x"), first)}, requires=["find"]
    )
    paths = made.paths
    monkeypatch.setattr("pyllama.builder.commands.arguments.locate", lambda on_top=(): paths)
    return made


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    return run_command(parser.parse_args(["patches", "rebase", *map(str, words)]))


def read(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, Any]:
    code = run(*words, "--json")
    return code, json.loads(capsys.readouterr().out)


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Names and sizes, and times but for git's objects: git touches one that it would write again."""
    found = {}
    for path in folder.rglob("*"):
        info = path.lstat()
        if not path.is_dir():
            found[str(path)] = (0 if "objects" in path.parts else info.st_mtime_ns, info.st_size)
    return found


CONFLICT = {CACHE: CODE.replace("return (int) i;", "return (int) i + 1;")}
MERGED = {
    CACHE: swapped(
        CODE, "int pos) {\n    for (", "int pos) {\n    for (auto & cell : cache->none) {}\n    for ("
    )
}
GONE = {CACHE: None, "src/log.cpp": "int log;\n"}


def test_json(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = read(capsys, "--onto", revision(world, "r", CONFLICT))
    assert code == 5
    assert [(row["feature"], row["outcome"]) for row in found["features"]] == [
        ("always", "clean"),
        ("find", "conflict"),
        ("needs", "blocked"),
    ]
    assert (found["onto"], found["pin"]) == (str(world.root / "r"), PIN)
    assert found["tree"] == world.store.add(world.root / "r") and 0 < found["seconds"] < 60
    always, find, _ = found["features"]
    assert always["hunks"] == [
        {
            "hook": "hooks/a.patch",
            "file": CACHE,
            "hunk": 1,
            "outcome": "clean",
            "detail": "",
            "line": 38,
            "offset": 0,
            "moved_to": None,
        }
    ]
    (loss,) = find["would_delete"]
    assert loss == {
        "hook": "hooks/a.patch",
        "file": CACHE,
        "hunk": 1,
        "line": loss["line"],
        "text": "            return (int) i + 1;",
    }
    assert [(row["feature"], row["mark"]) for row in found["range_diff"]] == [
        ("always", "="),
        ("find", "<"),
        ("needs", "<"),
    ]


def test_several_revisions(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [revision(world, name, files) for name, files in (("one", {}), ("two", MERGED))]
    code, found = read(capsys, "--onto", folders[0], "--onto", folders[1])
    assert code == 3
    assert [row["onto"] for row in found["reports"]] == list(map(str, folders))
    assert [row["features"][1]["outcome"] for row in found["reports"]] == ["clean", "merged"]


@pytest.mark.parametrize(
    ("files", "code"),
    [({}, 0), (MERGED, 3), ({CACHE: None, "src/c.cpp": CODE}, 4), (CONFLICT, 5), (GONE, 5)],
)
def test_exit_codes(
    world: World, capsys: pytest.CaptureFixture[str], files: dict[str, str | None], code: int
) -> None:
    assert run("--onto", revision(world, "r", files)) == code
    assert capsys.readouterr().err.startswith("read ")


def test_on_a_terminal(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    run("--onto", revision(world, "r", CONFLICT), "--range-diff")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"pin {PIN} onto {world.root / 'r'}: tree ")
    assert lines[1:3] == ["always  clean", "find    conflict          of 1 hunks: 1 conflict"]
    assert lines[3].startswith(f"    hooks/a.patch, {CACHE}:28, hunk 1: conflict: ")
    assert lines[4] == f"    would delete {CACHE}:28: return (int) i + 1;"
    assert any(line.startswith("1:  ") and " = 1:  " in line for line in lines)


def test_markdown(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("--onto", revision(world, "a_b", {}), "--onto", revision(world, "r", CONFLICT), "--markdown") == 5
    )
    out, err = capsys.readouterr()
    assert err == ""
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert table[0].startswith("| feature | ") and r"a\_b (" in table[0]
    assert table[1:] == [
        "| --- | --- | --- |",
        "| always | clean | clean |",
        "| find | clean | conflict |",
        "| needs | clean | blocked |",
    ]
    assert f"{CACHE}:28:             return (int) i + 1;\n```" in out
    assert f"- `{CACHE}`, line 28, `hooks/a.patch`, hunk 1: **conflict** (" in out


def test_only_some_features(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = read(capsys, "--onto", revision(world, "r", {}), "--features", "always")
    assert [row["feature"] for row in found["features"]] == ["always"]


def packed(folder: Path, archive: Path, prefix: str) -> Path:
    with tarfile.open(archive, "w:gz") as out:
        out.add(folder, prefix)
    return archive


@pytest.mark.parametrize(
    "form", ["folder", "archive", "sdist folder", "sdist archive", "work tree", "gitfile"]
)
def test_every_form_is_the_same_tree(world: World, capsys: pytest.CaptureFixture[str], form: str) -> None:
    folder = revision(world, "plain", MERGED)
    tree = world.store.add(folder)
    more = (
        '[pin.index]\nproject = "x"\nversion = "1"\nsha256 = "'
        + "0" * 64
        + '"\nsubfolder = "vendor/llama.cpp"\n'
    )
    world.paths.pins.write_text(LOCK.format(name=PIN, tree=world.tree) + more)
    sdist = world.root / "sdist"
    (sdist / "vendor").mkdir(parents=True)
    (sdist / "setup.py").write_text("x\n")
    if form.startswith("sdist"):
        folder = folder.rename(sdist / "vendor" / "llama.cpp")
        (folder / ".git").write_text("gitdir: ../../.git/modules/vendor/llama.cpp\n")
        folder = sdist
    if form == "work tree":
        os.system(f"git init -q '{folder}'")
        assert (folder / ".git/HEAD").is_file()
    if form == "gitfile":
        (folder / ".git").write_text("gitdir: nowhere\n")
    given = packed(folder, world.root / "a.tar.gz", "x-1.0") if form.endswith("archive") else folder
    before = snapshot(given) if given.is_dir() else {}
    code, found = read(capsys, "--onto", given)
    assert (code, found["tree"]) == (3, tree)
    assert not given.is_dir() or snapshot(given) == before


def test_a_pin(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    tree = world.store.add(revision(world, "r", MERGED))
    row = LOCK.format(name=OTHER, tree=tree).partition("\n")[2]
    world.paths.pins.write_text(world.paths.pins.read_text() + row)
    code, found = read(capsys, "--onto", OTHER)
    assert (code, found["onto"], found["tree"]) == (3, OTHER, tree)
    code, found = read(capsys, "--onto", PIN)
    assert (code, found["tree"], found["features"][2]["outcome"]) == (0, world.tree, "clean")


def test_nothing_is_written_anywhere(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [revision(world, name, files) for name, files in (("one", MERGED), ("two", CONFLICT))]
    before = snapshot(world.root)
    run("--onto", folders[0], "--onto", folders[1])
    run("--bisect", *folders)
    assert snapshot(world.root) == before


FAULTS = {
    "no such place": ("nowhere", "there is no pin, folder or archive"),
    "empty": ("empty", "holds no files"),
    "no archive": ("noise.tar.gz", "is damaged or not an archive"),
    "cut short": ("cut.tar.gz", "damaged|cannot be unpacked"),
    "something else": ("else", "none of the 1 files that the hooks change"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_input(world: World, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    (world.root / "empty").mkdir()
    (world.root / "noise.tar.gz").write_bytes(os.urandom(1000))
    whole = packed(revision(world, "r", {}), world.root / "whole.tar.gz", "x").read_bytes()
    (world.root / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (world.root / "else").mkdir()
    (world.root / "else" / "thesis.txt").write_text("mine\n")
    name, words = FAULTS[fault]
    before = snapshot(world.root)
    assert run("--onto", world.root / name) == 1
    out, err = capsys.readouterr()
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert out == "" and "Traceback" not in err
    assert any(word in error for word in words.split("|")), error
    assert snapshot(world.root) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folder = revision(world, "r", {})
    (folder / CACHE).chmod(0)
    assert run("--onto", folder) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_wrong_usage(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folder = revision(world, "r", {})
    assert run() == 2
    assert run("--onto", folder, "--onto", folder) == 2
    assert run("--onto", folder, "--pin", "1999-01") == 2
    assert run("--onto", folder, "--features", "nothing") == 2
    assert all(line.startswith("error: ") for line in capsys.readouterr().err.splitlines())
    for words in (("--onto", folder, "--bisect", folder), ("--onto", folder, "--json", "--markdown")):
        with pytest.raises(SystemExit) as caught:
            run(*words)
        assert caught.value.code == 2
        capsys.readouterr()


def test_bisect_where_upstream_went_back_and_forth(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """It broke, was mended, and broke again: the newest that works counts."""
    has = {CACHE: CODE.replace("return (int) i;", "return cache_hit(i);")}
    listed = {"r1": {}, "r2": CONFLICT, "r3": MERGED, "r4": has, "r5": CONFLICT, "r6": GONE}
    folders = [revision(world, name, files) for name, files in listed.items()]
    code, found = read(capsys, "--bisect", *folders)
    assert code == 5
    rows = {row.pop("feature"): row for row in found["bisect"]}
    names = {str(folder): folder.name for folder in folders}
    assert {name: {k: names.get(v, v) for k, v in row.items()} for name, row in rows.items()} == {
        "always": {
            "newest": "r5",
            "outcome": "clean",
            "broken_by": "r6",
            "word": "target-deleted",
            "upstreamed_in": None,
        },
        "find": {
            "newest": "r3",
            "outcome": "merged",
            "broken_by": "r5",
            "word": "conflict",
            "upstreamed_in": "r4",
        },
        "needs": {
            "newest": "r4",
            "outcome": "clean",
            "broken_by": "r5",
            "word": "blocked",
            "upstreamed_in": None,
        },
    }
    # r2 and r1 are older than what settles the last of them
    assert [names[row["onto"]] for row in found["tried"]] == ["r6", "r5", "r4", "r3"]
    run("--bisect", *folders)
    out = capsys.readouterr().out
    after = f"broken by {folders[4]} (conflict), upstreamed in {folders[3]}"
    assert f"find    newest: {folders[2]} (merged), {after}" in out
    run("--bisect", *folders, "--markdown")
    assert "| needs | " in capsys.readouterr().out


def test_bisect_when_nothing_works(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [revision(world, name, GONE) for name in ("r1", "r2")]
    _, found = read(capsys, "--bisect", *folders)
    assert len(found["tried"]) == 2
    assert found["bisect"][0]["newest"] is None and found["bisect"][0]["broken_by"] == str(folders[0])

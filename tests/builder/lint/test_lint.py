"""Each rule finds its fault in a series that is good otherwise, and says nothing of a good one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from throwaway import MAIN, PIN, UPSTREAM, World, change, changed, make_world

from pyllama.builder.lint import run
from pyllama.builder.lint.finding import Finding
from pyllama.builder.paths import Paths
from pyllama.builder.pins import Lock, Pin
from pyllama.builder.progress import Reporter
from pyllama.builder.project import Project
from pyllama.builder.stack import lock as trees
from pyllama.builder.stack.diffs import diff as git_diff

README = (
    "# one\n\n`one` and `two` are features of a test. "
    + "They do what tests need, and nothing else. " * 4
    + "\n"
)


def hook(world: World, new: str, old: str = MAIN, path: str = "src/main.cpp") -> str:
    """Return a hook as git writes it, with full index lines."""
    ids = []
    for number, text in enumerate((old, new)):
        folder = world.root / "states" / str(number)
        for name, body in {**UPSTREAM, path: text}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(body.encode())
        ids.append(world.store.add(folder))
    return git_diff(world.store.repo, ids[0], ids[1]).decode()


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two features; the second changes what the first wrote."""
    made = make_world(tmp_path)
    made.feature("one", {"a.patch": hook(made, changed(5, "first"))}, {"src/new.cpp": "int x;\n"})
    second = hook(made, changed(5, "second", changed(5, "first")), changed(5, "first"))
    made.feature("two", {"a.patch": second}, requires=["one"])
    for name in ("one", "two"):
        (made.patches / name / "README.md").write_text(README)
        toml = made.patches / name / "feature.toml"
        toml.write_text(toml.read_text().replace("[contract]", '[contract]\ntests = ["tests/t.py"]'))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "t.py").touch()
    relock(made)
    return made


def pin_of(world: World) -> Pin:
    return Pin(PIN, "1" * 40, world.tree, "2026-10-01", "a test")


def relock(world: World) -> None:
    rows = list(trees.compute(world.stack(), PIN, world.tree, world.store))
    (world.patches / trees.NAME).write_text(trees.dump(rows))


def lint(world: World, paths: Paths | None = None) -> list[Finding]:
    where = paths or world.paths
    findings, features = run.static(where, world.store, world.root)
    pin = pin_of(world)
    if not any(finding.rule == "series" for finding in findings):
        findings += run.composed(where, Lock(PIN, (pin,)), features, [pin], world.store)
    return findings


def rules(findings: list[Finding]) -> set[str]:
    return {finding.rule for finding in findings}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())


def test_a_good_series_has_no_findings(world: World) -> None:
    assert lint(world) == []


TOML, HOOK, README_FILE, SOURCE = (
    "one/feature.toml",
    "one/hooks/a.patch",
    "one/README.md",
    "one/files/src/new.cpp",
)


@pytest.mark.parametrize(
    ("rule", "file", "old", "new"),
    [
        ("title", TOML, '"About one"', '"About one."'),
        ("title", TOML, '"About one"', f'"{"About one " * 9}"'),
        ("origin", TOML, '"#1"', '"somebody"'),
        ("license", TOML, '"MIT"', '"Do what you want"'),
        ("load", TOML, 'license = "MIT"', 'license = "MIT"\ncolour = "red"'),
        ("load", TOML, "pending", "perhaps"),
        ("contract", TOML, 'symbols = [{library = "llama", name = "f"}]', ""),
        ("contract", TOML, "tests/t.py", "tests/no.py"),
        ("readme", README_FILE, "# one\n\n`one`", "# it\n\n`it`"),
        ("final-line-feed", SOURCE, "int x;\n", "int x;"),
        ("lf", SOURCE, "int x;\n", "int x;\r\n"),
        ("lf", TOML, "\n", "\r\n"),
        ("trailing-blanks", SOURCE, "int x;\n", "int x; \n"),
        ("conflict-marker", SOURCE, "int x;\n", "<<<<<<< ours\nint x;\n=======\nint y;\n>>>>>>> theirs\n"),
        ("machine-path", SOURCE, "int x;\n", 'const char *p = "/home/me/x";\n'),
        ("machine-path", SOURCE, "int x;\n", "// C:\\\\Users\\\\me\n"),
        ("trailing-blanks", HOOK, "+first\n", "+first \n"),
        ("conflict-marker", HOOK, "+first\n", "+<<<<<<< ours\n"),
        ("machine-path", HOOK, "+first\n", "+/home/me/first\n"),
        ("hook", HOOK, "@@ -2,7 +2,7 @@", "@@ -2,6 +2,6 @@"),
        ("hook", HOOK, "--- a/", "old mode 100644\nnew mode 100755\n--- a/"),
        ("full-index", HOOK, "index ", "not-index "),
        ("drift", HOOK, "@@ -2,7 +2,7 @@", "@@ -3,7 +3,7 @@"),
        ("applies", HOOK, " line 4", " line four"),
        ("alone", HOOK, " line 4", " line four"),
        ("lock", HOOK, "+first\n", "+first!\n"),
    ],
)  # fmt: skip
def test_each_rule(world: World, rule: str, file: str, old: str, new: str) -> None:
    path = world.patches / file
    if rule == "full-index":
        lines = path.read_text().splitlines(True)
        path.write_text("".join(line for line in lines if not line.startswith("index ")))
    else:
        edit(path, old, new)
    findings = lint(world)
    found = [finding for finding in findings if finding.rule == rule]
    assert found, findings
    assert any(finding.file == file or rule in ("applies", "alone", "lock") for finding in found)
    assert all(str(finding).endswith(f"[{rule}]") for finding in found)


def test_t7_a_hunk_that_git_would_cut_short(world: World) -> None:
    """git reads the first four lines, leaves out the rest, and exits with 0."""
    path = world.patches / HOOK
    edit(path, "+first\n", "+first\n+second\n")
    edit(path, "@@ -2,7 +2,7 @@", "@@ -2,4 +2,4 @@")
    done = world.store.repo.run("apply", "--numstat", stdin=path.read_bytes())
    assert done.out == "1\t1\tsrc/main.cpp\n"
    assert {"hook", "hunk-size"} <= rules(lint(world))


def test_not_utf8_and_paths_of_the_checkout(world: World) -> None:
    (world.patches / SOURCE).write_bytes(b"\xff\n")
    assert "utf-8" in rules(lint(world))
    (world.patches / SOURCE).write_text(f"// {world.root}/x\n")
    assert "machine-path" in rules(lint(world))


def test_every_feature_is_looked_at(world: World) -> None:
    """One that can't be read hides nothing of the others."""
    edit(world.patches / TOML, "pending", "perhaps")
    edit(world.patches / "two/feature.toml", '"#1"', '"somebody"')
    assert {(f.feature, f.rule) for f in lint(world)} >= {("one", "load"), ("two", "origin")}


def test_folders_and_series_disagree(world: World) -> None:
    (world.patches / "stray").mkdir()
    assert rules(lint(world)) == {"series"}
    (world.patches / "stray").rmdir()
    world.series("two", "one")
    assert any("must come before" in finding.message for finding in lint(world))


def test_a_hook_that_no_pin_uses(world: World) -> None:
    (world.patches / "one/hooks/old.patch").write_text(change(9, "x"))
    assert "unused" in rules(lint(world))


BLOCK = "".join(f"+new {number}\n" for number in range(31))


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("white-space", "+first", "+ line  5"),
        ("moved", "-line 5\n+first\n", "-line 5\n+first\n+line 5\n"),
        ("size", "+first\n", BLOCK),
        ("blank-lines", "+first\n", "+first\n+\n+\n"),
    ],
)
def test_what_a_hook_does_not_need(world: World, rule: str, old: str, new: str) -> None:
    path = world.patches / HOOK
    edit(path, old, new)
    added = new.count("+") - old.count("+")
    edit(path, "+2,7 @@", f"+2,{7 + added} @@")
    found = [finding for finding in lint(world) if finding.rule == rule]
    assert [finding.level for finding in found] == ["warning"]
    assert found[0].line == 5


def test_too_much_context(world: World) -> None:
    path = world.patches / HOOK
    path.write_text(re.sub(r"@@ -2,7 \+2,7 @@.*\n", "@@ -1,8 +1,8 @@\n line 1\n", path.read_text()))
    assert "context" in rules(lint(world))


def test_a_hook_may_have_words_before_its_diff(world: World) -> None:
    path = world.patches / HOOK
    path.write_text("Why this is.\n\n" + path.read_text())
    assert rules(lint(world)) == {"lock"}


def test_several_hooks_in_one_feature_on_one_file(world: World) -> None:
    folder = world.patches / "one"
    both = changed(20, "more", changed(5, "first"))
    (folder / "hooks/b.patch").write_text(hook(world, both, changed(5, "first")))
    edit(folder / "feature.toml", '["hooks/a.patch"]', '["hooks/a.patch", "hooks/b.patch"]')
    relock(world)
    second = hook(world, changed(5, "second", both), both)
    (world.patches / "two/hooks/a.patch").write_text(second)
    relock(world)
    assert lint(world) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tree = ", "trunk = ", "is no lock of trees"),
        ('key = "', 'key = "0', "not locked as it is now"),
        ('features = ["one"]', 'features = ["one", "no"]', "locked, but not in the series"),
        (None, None, "not locked as it is now"),
    ],
)  # fmt: skip
def test_the_lock_of_trees(world: World, old: str | None, new: str, message: str) -> None:
    path = world.patches / trees.NAME
    if old is None:
        path.unlink()
    else:
        edit(path, old, new)
    findings = lint(world)
    assert rules(findings) == {"lock"}
    assert any(message in finding.message for finding in findings)


def test_another_tree_than_locked(world: World) -> None:
    rows = trees.load(world.patches)
    wrong = [replace(row, tree="0" * 40) for row in rows]
    (world.patches / trees.NAME).write_text(trees.dump(wrong))
    assert any("is locked" in finding.message for finding in lint(world))


def test_a_series_on_top_has_its_own_lock(world: World) -> None:
    theirs = World(world.root / "fork", world.store, world.tree)
    theirs.root.mkdir()
    theirs.series()
    theirs.feature("three", {"a.patch": hook(world, changed(20, "x"))}, requires=["one"])
    (theirs.patches / "three/README.md").write_text(README.replace("one", "three"))
    toml = theirs.patches / "three/feature.toml"
    toml.write_text(toml.read_text().replace("[contract]", '[contract]\ntests = ["tests/t.py"]'))
    paths = replace(world.paths, on_top=(theirs.patches,))
    assert {(f.rule, f.file) for f in lint(world, paths)} == {
        ("lock", trees.NAME),
        ("drift", "three/hooks/a.patch"),
    }

    # the third touches the file in which the others work, so its blob ids are those of a tree with them
    below = changed(5, "second")
    (theirs.patches / "three/hooks/a.patch").write_text(hook(world, changed(20, "x", below), below))
    opened = Project(paths, Lock(PIN, (pin_of(world),)), run.series.load(paths.patches, *paths.on_top))
    rows = list(trees.compute(opened.stack, PIN, world.tree, world.store, ["three"]))
    assert [row.features for row in rows] == [("one", "three"), ("one", "two", "three")]
    (theirs.patches / trees.NAME).write_text(trees.dump(rows))
    assert lint(world, paths) == []


def test_the_projects_own_series_is_clean() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyllama.builder", "patches", "lint", "--pin", "2026-10", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == {"good": True, "findings": []}


@pytest.mark.matrix
def test_every_feature_alone_and_all_together_are_as_locked(
    lock: Lock, installed_paths: Paths, pin: str | None
) -> None:
    opened = Project(installed_paths, lock, run.series.load(installed_paths.patches))
    chosen = opened.pin(pin)
    store = opened.store_with(chosen, Reporter(quiet=True))
    held = [row for row in trees.load(installed_paths.patches) if row.pin == chosen.name]
    assert list(trees.compute(opened.stack, chosen.name, chosen.tree, store)) == held
    assert max(len(row.features) for row in held) == len(opened.select(chosen, "all"))

"""Reading, checking and choosing features; hostile series."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from throwaway import MAIN, PIN, World, change, changed, diff, make_world

from pyllama.builder.git import Git
from pyllama.builder.stack.features import select
from pyllama.builder.stack.hooks import Hook, parse, path_fault
from pyllama.builder.stack.series import load
from pyllama.errors import PatchError, UsageError


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def refused(world: World, *words: str) -> None:
    with pytest.raises(PatchError) as caught:
        world.stack()
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "feature.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_feature_is_read_whole(world: World) -> None:
    folder = world.feature(
        "one", {"a.patch": change(3, "x")}, {"src/new.cpp": "int n;\n", "tool.sh": "#!/bin/sh\n"}
    )
    (folder / "files/tool.sh").chmod(0o755)
    feature = world.stack()["one"]
    assert feature.title == "About one"
    assert feature.contract.symbols[0].library == "llama"
    assert [(file.path, file.mode) for file in feature.files] == [
        ("src/new.cpp", "100644"),
        ("tool.sh", "100755"),
    ]
    (hook,) = feature.hooks_at(PIN)
    assert [(c.path, c.kind, c.added, c.removed, len(c.hunks)) for c in hook.changes] == [
        ("src/main.cpp", "modify", 1, 1, 1)
    ]
    assert feature.at("1999-01").kind == "not-applicable"


def test_series_and_folders_agree(world: World) -> None:
    world.feature("one", {"a.patch": change(3, "x")})
    (world.patches / "stray").mkdir()
    refused(world, "stray", "not listed")
    (world.patches / "stray").rmdir()
    world.series("one", "ghost")
    refused(world, "ghost", "no folder")
    world.series("one", "one")
    refused(world, "twice")
    world.series("../one")
    refused(world, "can't name a feature")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('license = "MIT"', "", ("'license' is missing",)),
        ('license = "MIT"', 'licence = "MIT"', ("licen",)),
        ('license = "MIT"', 'license = "MIT"\nmood = "good"', ("'mood' is unknown",)),
        ('license = "MIT"', "license = 3", ("license must be a text",)),
        ('"pending"', '"merged"', ("upstream-status",)),
        ("[contract]", "[contract]\nmacro = []", ("'macro' is unknown", "[contract]")),
        ('library = "llama", ', "", ("'library' is missing",)),
        ('origin = ["#1"]', "origin = [1]", ("origin must be a list of texts",)),
        ('hooks = ["hooks/a.patch"]', "", ("exactly one of",)),
        ('hooks = ["hooks/a.patch"]', 'hooks = []\nupstream = "x"', ("exactly one of",)),
        ('hooks = ["hooks/a.patch"]', 'patches = ["hooks/a.patch"]', ("'patches' is unknown",)),
        ('title = "', "title = ", ("not TOML",)),
    ],
)
def test_metadata_faults(world: World, old: str, new: str, words: tuple[str, ...]) -> None:
    edit(world.feature("one", {"a.patch": change(3, "x")}), old, new)
    refused(world, "feature one", *words)


@pytest.mark.parametrize(
    "name",
    [
        "hooks/none.patch",
        "/etc/passwd",
        "hooks/../../../secret",
        "../other/hooks/a.patch",
        "feature.toml",
        "hooks",
    ],
)
def test_hooks_lie_in_the_feature(world: World, name: str) -> None:
    world.feature("one", pin=f'hooks = ["{name}"]')
    refused(world, "feature one, hook")


def test_links_are_refused(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside.patch"
    outside.write_text(change(3, "x"))
    folder = world.feature("one", pin='hooks = ["hooks/link.patch"]')
    (folder / "hooks/link.patch").symlink_to(outside)
    refused(world, "symbolic link")
    (folder / "hooks/link.patch").unlink()
    (folder / "hooks/link.patch").write_text(change(3, "x"))
    (folder / "files/src").mkdir(parents=True)
    (folder / "files/src/leak.txt").symlink_to("/etc/passwd")
    refused(world, "symbolic link")
    (folder / "files/src/leak.txt").unlink()
    (folder / "files/dir").symlink_to(tmp_path)
    refused(world, "symbolic link")
    (folder / "files/dir").unlink()
    os.mkfifo(folder / "files/pipe")
    refused(world, "not a plain file")
    (folder / "files/pipe").unlink()
    (folder / "files/.Git").mkdir()
    refused(world, "git's own")


def test_sizes_and_encodings(world: World) -> None:
    folder = world.feature("one", {"a.patch": change(3, "x")})
    hook = folder / "hooks/a.patch"
    with hook.open("r+b") as stream:
        stream.truncate(200 << 20)
    refused(world, "larger than 1 MiB")
    hook.write_bytes(change(3, "x").encode() + b"\xff")
    refused(world, "not UTF-8")
    hook.write_text(change(3, "x"))
    (folder / "feature.toml").write_bytes(b'title = "\xff"')
    refused(world, "not UTF-8")


def test_the_graph(world: World) -> None:
    world.feature("one", {"a.patch": change(3, "x")}, requires=["two"])
    world.feature("two", {"a.patch": change(20, "x")})
    refused(world, "two must come before one")
    edit(world.patches / "two", "requires = []", 'requires = ["one"]')
    refused(world, "circle", "one → two → one")
    edit(world.patches / "two", 'requires = ["one"]', 'requires = ["three"]')
    refused(world, "two", "'three'")
    edit(world.patches / "two", 'requires = ["three"]', "requires = []")
    edit(world.patches / "one", 'requires = ["two"]', 'requires = ["three"]')
    refused(world, "one", "'three'")


def test_a_series_on_top(world: World, tmp_path: Path) -> None:
    world.feature("one", {"a.patch": change(3, "x")})
    fork = World(tmp_path / "fork", world.store, world.tree)
    fork.root.mkdir()
    fork.feature("ours", {"a.patch": change(20, "x")}, requires=["one"])
    assert load(world.patches, fork.patches).names == ("one", "ours")
    fork.feature("one", {"a.patch": change(9, "x")})
    with pytest.raises(PatchError, match="two series"):
        load(world.patches, fork.patches)


def test_select(world: World) -> None:
    world.feature("base", {"a.patch": change(3, "x")})
    world.feature("mid", {"a.patch": change(20, "x")}, requires=["base"])
    world.feature("gone", pin='upstream = "merged as #9"')
    world.feature("never", pin='not-applicable = "the file is not there"')
    world.feature("child", {"a.patch": change(27, "x")}, requires=["never"])
    world.feature("top", {"a.patch": change(12, "x")}, requires=["mid", "gone"])
    world.feature("rival", {"a.patch": change(12, "y")}, conflicts=["base"])
    stack = world.stack()

    def chosen(wanted: str | list[str]) -> list[str]:
        return [feature.name for feature in select(stack, PIN, wanted)]

    assert chosen("none") == [] == chosen([])
    assert chosen(["top"]) == ["base", "mid", "gone", "top"]
    assert chosen("mid") == ["base", "mid"]
    for wanted, words in (
        (["nothing"], "there is no feature 'nothing': known are base, mid,"),
        (["never"], "never does not apply to pin 2026-10: the file is not there"),
        (["child"], "never, which child requires, does not apply"),
        (["rival", "mid"], "rival and base conflict"),
        ("all", "rival and base conflict"),
    ):
        with pytest.raises(UsageError, match=words):
            chosen(wanted)
    edit(world.patches / "rival", 'conflicts = ["base"]', "conflicts = []")
    stack = world.stack()
    assert chosen("all") == ["base", "mid", "gone", "top", "rival"]


def read(text: str) -> Hook:
    return parse("hooks/x.patch", text.encode(), "hook x")


GOOD = change(3, "x")
TWO_HUNKS = diff("src/main.cpp", MAIN, changed(27, "y", changed(3, "x")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("src/main.cpp", "../main.cpp"), "leaves the tree"),
        (GOOD.replace("a/src/main.cpp b/src/main.cpp", "a//etc/passwd b//etc/passwd"), "absolute"),
        (GOOD.replace("src/main.cpp", "src/../../main.cpp"), "leaves the tree"),
        (GOOD.replace("src/main.cpp", "src/.git/config"), "git's own"),
        (GOOD.replace("+++ b/src/main.cpp", "+++ b/src/else.cpp"), "is expected here"),
        (GOOD.replace("+++ b/src/main.cpp", "+++ /dev/null"), "is expected here"),
        (GOOD.replace("--- a/", "old mode 100644\nnew mode 100755\n--- a/"), "changes a file mode"),
        (GOOD.replace("--- a/", "index 1234567..89abcde 120000\n--- a/"), "symbolic link"),
        (GOOD.replace("--- a/", "new file mode 160000\n--- a/"), "submodule"),
        (GOOD.replace("--- a/", "similarity index 90%\n--- a/"), "renames"),
        (GOOD.replace("--- a/", "rename from a\nrename to b\n--- a/"), "renames"),
        ("diff --git a/x b/x\nindex 1..2 100644\nGIT binary patch\nliteral 1\nIcmZ\n", "binary"),
        ("diff --git a/x b/x\nBinary files a/x and b/x differ\n", "binary"),
        ('diff --git "a/\\303" "b/\\303"\n', "unquoted"),
        (GOOD.replace("\n", "\r\n"), "CRLF"),
        (GOOD[:-1], "line feed"),
        (GOOD[: GOOD.index(" line 5")], "more lines than follow"),
        (GOOD + "-- \n2.39.5\n", "fewer lines"),
        (GOOD + " line 7\n", "fewer lines"),
        (GOOD.replace("-line 3\n+x\n", "-line 3\n+line 3\n"), "changes nothing"),
        ("diff --git a/x b/x\nnew file mode 100644\n", "no hunk"),
        ("Subject: nothing\n", "changes nothing"),
        ("", "changes nothing"),
        (GOOD + GOOD, "two places"),
        (GOOD.partition("\n")[2], "must begin with"),
        (GOOD.replace("@@ -", "@@ x"), "can't be read"),
        ("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -2,0 +3 @@\n+new\n", "no line of context"),
    ],
)
def test_hostile_hooks(text: str, words: str) -> None:
    with pytest.raises(PatchError, match=words) as caught:
        read(text)
    assert "\n" not in str(caught.value)


def test_t7_a_hunk_that_counts_too_few_lines(tmp_path: Path) -> None:
    """git drops the rest of such a hunk without a word."""
    header = next(line for line in GOOD.splitlines() if line.startswith("@@"))
    short = GOOD.replace(header, "@@ -1,3 +1,3 @@")
    lost = GOOD[: GOOD.index("@@")] + TRICK
    git = Git(tmp_path)
    plain = git.run("apply", "--numstat", stdin=lost.encode(), check=False)
    whole = git.run("apply", "--recount", "--numstat", stdin=lost.encode(), check=False)
    assert (plain.code, whole.code) == (0, 0)
    assert plain.out != whole.out
    for text in (short, lost):
        with pytest.raises(PatchError, match="fewer lines than follow"):
            read(text)


TRICK = "@@ -1,3 +1,3 @@\n line 1\n line 2\n-line 3\n+x\n+lost\n line 4\n"


def test_good_hooks_read_as_git_reads_them(tmp_path: Path) -> None:
    created = (
        "diff --git a/n.h b/n.h\nnew file mode 100644\n--- /dev/null\n+++ b/n.h\n@@ -0,0 +1 @@\n+int n;\n"
    )
    deleted = (
        "diff --git a/o.h b/o.h\ndeleted file mode 100644\n--- a/o.h\n+++ /dev/null\n@@ -1 +0,0 @@\n-int n;\n"
    )
    ending = "diff --git a/e b/e\n--- a/e\n+++ b/e\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n"
    spaced = diff("docs/read me.md", "one\n", "two\n").replace("read me.md\n@@", "read me.md\t\n@@")
    letter = "From: me\nSubject: it\n\nwhy\n---\n stat\n\n"
    for text in (GOOD, TWO_HUNKS, created, deleted, ending, spaced, letter + GOOD + created):
        assert Git(tmp_path).run("apply", "--numstat", "-z", stdin=text.encode()).out == read(text).numstat
    assert [change.kind for change in read(created + deleted + GOOD).changes] == [
        "create",
        "delete",
        "modify",
    ]


def test_paths() -> None:
    for path in ("a", "src/a b.c", ".github/x", ".gitignore", "über/x.h"):
        assert path_fault(path) is None
    for path in (
        "",
        "/a",
        "a//b",
        "./a",
        "a/..",
        "C:/x",
        "a\\b",
        "a\nb",
        ".GIT/x",
        "x/.git ",
        ".git::$DATA",
        "git~1",
    ):
        assert path_fault(path)


REAL = Path(__file__).parents[3] / "patches"


def test_the_projects_own_series_loads() -> None:
    stack = load(REAL)
    assert stack.features
    for feature in stack.features:
        assert feature.pins, feature.name
        assert feature.contract != type(feature.contract)(), feature.name
        named = {hook for entry in feature.pins.values() for hook in entry.hooks}
        assert named == {f"hooks/{file.name}" for file in (feature.folder / "hooks").glob("*.patch")}, (
            feature.name
        )
        assert select(stack, "no-such-pin", "all") == ()

"""A hunk is put exactly where git puts it, or nowhere."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from throwaway import diff

from pyllama.builder.rebase.layout import Spot
from pyllama.builder.rebase.text import Piece, Text, edits
from pyllama.builder.rebase.tokens import by_line, significant
from pyllama.builder.rebase.upstream import Changes
from pyllama.builder.rebase.writing import accepts, holds, write
from pyllama.builder.stack.hooks import parse
from pyllama.builder.tree import TreeStore


def by_git(store: TreeStore, old: bytes, patch: bytes) -> bytes | None:
    with store.scratch_index() as git:
        blob = git.run("hash-object", "-w", "--stdin", stdin=old).out.strip()
        git.run("update-index", "--add", "--cacheinfo", f"100644,{blob},f.c")
        if git.run("apply", "--cached", stdin=patch, check=False).code != 0:
            return None
        return git.run("cat-file", "blob", ":f.c").out.encode()


def by_us(old: bytes, patch: bytes) -> bytes | None:
    text = Text.of(old)
    taken = [False] * len(text.lines)
    for hunk in parse("x", patch, "x").changes[0].hunks:
        piece = Piece.of(hunk)
        at = piece.locate(text.lines, 0, taken)
        if at is None:
            return None
        taken[at : at + len(piece.before)] = [True] * len(piece.after)
        text = text.with_piece(piece, at)
    return text.data


@pytest.mark.parametrize("seed", range(4))
def test_where_git_puts_it(tmp_path: Path, seed: int) -> None:
    """Few different lines, so that there are many places at which a hunk could go."""
    chance = random.Random(seed)
    store = TreeStore(tmp_path / "store")
    landed = refused = 0
    for _ in range(25):
        old = [f"{chance.choice('abc')}\n" for _ in range(chance.randint(1, 24))]
        new = list(old)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(new) + 1)
            new[at : at + chance.randint(0, 1)] = [f"{chance.choice('abcx')}\n"] * chance.randint(0, 2)
        if new == old or not new:
            continue
        patch = diff("f.c", "".join(old), "".join(new)).encode()
        other = list(old)
        for _ in range(chance.randint(0, 4)):
            at = chance.randrange(len(other) + 1)
            other[at : at + chance.randint(0, 2)] = [f"{chance.choice('abc')}\n"] * chance.randint(0, 3)
        data = "".join(other).encode()
        expected = by_git(store, data, patch)
        assert by_us(data, patch) == expected, (data, patch)
        landed, refused = landed + (expected is not None), refused + (expected is None)
    assert landed > 3 and refused > 3


def test_no_line_feed_at_the_end(tmp_path: Path) -> None:
    store = TreeStore(tmp_path / "store")
    head = b"diff --git a/f.c b/f.c\n--- a/f.c\n+++ b/f.c\n"
    patch = head + b"@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n"
    for old in (b"a\nb", b"a\nb\n", b"a\r\nb"):
        assert by_us(old, patch) == by_git(store, old, patch)
    assert by_us(b"a\nb", patch) == b"a\nc\n"


def test_other_bytes_survive() -> None:
    data = b"\xff\xfe latin \xe9\n\x0c\n\xe2\x80\xa8 line separator\r\nend"
    assert Text.of(data).data == data and len(Text.of(data).lines) == 4
    assert Text.of(b"hello\n").blob == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_origins_survive() -> None:
    text = Text.of(b"a\nb\nc\nd\n").became(b"a\nx\nc\nd\n")
    assert text.origin == (1, 0, 3, 4)
    assert [text.pristine(at) for at in range(5)] == [1, 3, 3, 4, 5]
    assert Text.of(b"a\nb\nc\n").lost_to(Text.of(b"a\nb\nc\n").became(b"a\nc\n")) == [(2, "b\n")]
    assert edits(["a"], ["a"]) == [("equal", 0, 1, 0, 1)]


def test_where_a_line_went() -> None:
    # two lines after the first, the third replaced by one, the fifth gone
    changes = Changes(((1, 0, 2, 2), (3, 1, 5, 1), (5, 1, 6, 0)))
    assert [changes.to_new(line) for line in (1, 2, 3, 4, 6, 7)] == [1, 4, 5, 6, 7, 8]
    assert changes.added == {2, 3, 5}


def test_what_a_line_says() -> None:
    code = 'a = "// not a comment"; // one\n/* x\n y */ b;\n#include <c>\n}\n    return;\n'
    assert by_line(code, "x.cpp")[:4] == [
        ("a", "=", '"// not a comment"', ";"),
        (),
        ("b", ";"),
        ("#", "include", "<", "c", ">"),
    ]
    assert [significant(tokens) for tokens in by_line(code, "x.cpp")] == [
        True,
        False,
        True,
        True,
        False,
        False,
        False,
    ]
    assert by_line("set(A 1) # why\n", "CMakeLists.txt")[0] == ("set", "(", "A", "1", ")")
    assert by_line("# a title\n", "x.md")[0] == ("#", "a", "title")


def test_git_has_the_last_word(tmp_path: Path) -> None:
    """It is asked with the very lines; a hunk whose context is another one is refused."""
    store = TreeStore(tmp_path / "store")
    (hunk,) = parse("x", diff("f.c", "a\nb\nc\n", "a\nx\nc\n").encode(), "x").changes[0].hunks
    spot = Spot(("feature", "hook", "f.c", 1), Piece.of(hunk), 0)
    with store.scratch_index() as git:
        assert accepts(git, "f.c", Text.of(b"a\nb\nc\n"), [spot])
        assert not accepts(git, "f.c", Text.of(b"a\nb\nd\n"), [spot])
        tree = write(
            git,
            git.run("mktree").out.strip(),
            {"f.c": Text.of(b"one\n"), "g/h": Text.of(b"x\n")},
            {"g/h": "100755"},
        )
        assert holds(git, {"f.c": Text.of(b"one\n"), "none": None})
        assert not holds(git, {"f.c": Text.of(b"two\n")}) and not holds(git, {"g/h": None})
        tree = write(git, tree, {"f.c": None}, {})
        assert git.run("ls-tree", "-r", tree).out.split()[0::3] == ["100755", "g/h"]

"""Stop strings: the same end of the text wherever the borders of the pieces are."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllama.errors import UsageError
from pyllama.stopping import StopStrings

# Few letters, so that stop strings are met, overlap and lie in each other.
TEXTS = st.text(alphabet="abé\n", max_size=24)
STOPS = st.lists(st.text(alphabet="abé\n", min_size=1, max_size=4), max_size=4)


def _reference(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Letter by letter: the text ends with the first letter that completes a stop string."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            stop = max(ended, key=len)
            return text[: end - len(stop)], stop
    return text, None


def _run(pieces: list[str], stops: list[str]) -> tuple[str, str | None, list[str]]:
    finder, shown = StopStrings(stops), []
    for piece in pieces:
        matched = finder.feed(piece)
        shown.append(matched.text)
        if matched.stop is not None:
            assert finder.finish() == ""
            return "".join(shown), matched.stop, shown
    shown.append(finder.finish())
    return "".join(shown), None, shown


@st.composite
def _cut(draw: st.DrawFn) -> tuple[str, list[str]]:
    text = draw(TEXTS)
    borders = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    places = [0, *borders, len(text)]
    return text, [text[a:b] for a, b in itertools.pairwise(places)]


@given(_cut(), STOPS)
def test_the_borders_do_not_matter(cut: tuple[str, list[str]], stops: list[str]) -> None:
    text, pieces = cut
    assert _run(pieces, stops)[:2] == _reference(text, stops) == _run([text], stops)[:2]


@given(_cut(), STOPS)
def test_no_more_is_held_back_than_needed(cut: tuple[str, list[str]], stops: list[str]) -> None:
    """What is shown after each piece is all but what could still begin a stop string."""
    _, pieces = cut
    finder, fed, shown = StopStrings(stops), "", ""
    for piece in pieces:
        matched = finder.feed(piece)
        fed, shown = fed + piece, shown + matched.text
        if matched.stop is not None:
            return
        assert fed.startswith(shown)
        held = fed[len(shown) :]
        beginnings = {stop[:n] for stop in stops for n in range(1, len(stop))}
        assert held == "" or held in beginnings
        assert not any(shown.endswith(begin) and not held for begin in beginnings)


def test_examples() -> None:
    for pieces, stops, expected in (
        (["Hel", "lo\n", "\nUser", ": hi"], ["\n\nUser:"], ("Hello", "\n\nUser:")),
        (["a", "b", "c"], [], ("abc", None)),
        (["one STO", "RE"], ["STOP"], ("one STORE", None)),
        (["xabcx"], ["abcd", "bc"], ("xa", "bc")),
        (["aab"], ["ab", "b"], ("a", "ab")),
    ):
        assert _run(pieces, stops)[:2] == expected


def test_an_empty_one() -> None:
    with pytest.raises(UsageError, match="empty stop string"):
        StopStrings(["x", ""])

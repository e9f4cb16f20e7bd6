"""Prompt lookup and the pace of drafts: pure functions of the text."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from pyllama.drafts.drafting import Lookup, Pace


def looked_up(text: Sequence[int], most: int, longest: int, shortest: int) -> list[int]:
    """The same by searching all of it: the last time that the longest run was there before."""
    for size in range(longest, shortest - 1, -1):
        for end in range(len(text) - 1, size - 1, -1):
            if size <= len(text) and list(text[end - size : end]) == list(text[len(text) - size :]):
                known = list(text)
                for _ in range(most):
                    known.append(known[end + len(known) - len(text)])
                return known[len(text) :]
    return []


@settings(max_examples=300, deadline=None)
@given(
    text=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    steps=st.lists(st.integers(1, 5), max_size=10),
    most=st.integers(1, 20),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_lookup_is_a_search(text: list[int], steps: list[int], most: int, sizes: tuple[int, int]) -> None:
    """However the text grew from one question to the next."""
    shortest, longest = sorted(sizes)
    lookup = Lookup(longest, shortest)
    at = 0
    for step in [*steps, len(text)]:
        at = min(at + step, len(text))
        known = text[:at]
        assert lookup.propose(known, most) == looked_up(known, most, longest, shortest)


def steps(pace: Pace, right: float, n: int) -> tuple[float, list[int]]:
    """`n` tokens, of each draft the part `right` is right; what it took, in plain steps, and the lengths."""
    taken, lengths, made = 0.0, [], 0
    while made < n:
        length = pace.ask()
        good = int(length * right)
        if length:
            pace.told(length, good, 0)
        taken += 1 + 0.25 * length
        made += 1 + good
        lengths.append(length)
    return taken, lengths


def test_good_drafts_get_longer() -> None:
    taken, lengths = steps(Pace(16, 0, 0.25), 1, 400)
    assert lengths[:3] == [4, 8, 16] and set(lengths[2:]) == {16}
    assert taken < 400 * 0.35


def test_bad_drafts_end() -> None:
    for n in (50, 400, 4000):
        taken, _ = steps(Pace(16, 0, 0.25), 0, n)
        assert taken <= n * 1.02 + 5


def test_drafts_come_back() -> None:
    pace = Pace(16, 0, 0.25)
    steps(pace, 0, 1000)
    _, lengths = steps(pace, 1, 200)
    assert max(lengths) == 16


@given(most=st.integers(1, 512), rounds=st.lists(st.tuples(st.integers(0, 512), st.integers(0, 9))))
def test_a_draft_is_never_longer_than_allowed(most: int, rounds: list[tuple[int, int]]) -> None:
    pace = Pace(most, 0.5, 0.25)
    for right, reread in rounds:
        length = pace.ask()
        assert 0 <= length <= most
        if length:
            pace.told(length, min(right, length), reread)

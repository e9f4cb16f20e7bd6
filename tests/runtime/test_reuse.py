"""Which states are kept for the next prompt where tokens cannot be taken back, and what they save."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from drafted import prompt_of, run
from hypothesis import given
from hypothesis import strategies as st
from same_bits import options, write_same_bits

import pyllama
from pyllama import Generation, Reuse, lib
from pyllama.errors import UsageError
from pyllama.prefix import NEAR, expendable, places

pytestmark = pytest.mark.matrix

RECURRENT = ("hybrid", "mamba2", "swa")
N_CTX = 1024


@pytest.fixture(params=RECURRENT)
def context(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[pyllama.Context]:
    path = write_same_bits(request.param, tmp_path)
    with pyllama.Model(path) as model, model.context(**options(n_ctx=N_CTX)) as made:
        assert not made.rewinds
        yield made


@pytest.fixture
def fresh(context: pyllama.Context) -> Iterator[pyllama.Context]:
    with context.model.context(**options(n_ctx=N_CTX)) as made:
        yield made


@pytest.fixture
def ask(context: pyllama.Context, fresh: pyllama.Context) -> Callable[..., Generation]:
    """Generate with what is kept; the answer is that of an empty context."""

    def asked(prompt: list[int], policy: Reuse | bool = True) -> Generation:
        done = run(context, prompt, max_tokens=8, reuse=policy)
        assert done.tokens == run(fresh, prompt, max_tokens=8).tokens
        saved = context.kept.saved
        assert [one.length for one in saved] == sorted({one.length for one in saved})
        assert lib.llama_memory_checkpoint_count(context.ptr, -1) == len(saved), "none is lost"
        if isinstance(policy, Reuse):
            assert len(saved) <= policy.checkpoints
            assert policy.nbytes is None or sum(one.nbytes for one in saved) <= policy.nbytes
        return done

    return asked


def test_a_chat(ask: Callable[..., Generation]) -> None:
    """A follow-up, the same again, an edited last message, and an answer that the prompt holds otherwise."""
    history = prompt_of(1, 300)
    ask(history)
    first = ask([*history, *prompt_of(2, 30)])
    assert first.cached_tokens >= 299
    prompt = [*history, *prompt_of(2, 30)]
    for seed in (3, 4, 5):
        message = prompt_of(seed, 30)
        last = [*prompt, *first.tokens, *message]
        follow_up = ask(last)
        assert len(last) - follow_up.cached_tokens <= len(message) + 1
        again = ask(last)
        assert len(last) - again.cached_tokens <= len(message) + 1
        assert ask(last).cached_tokens == len(last) - 1
        edited = [*last[:-30], *prompt_of(seed + 10, 30)]
        other = ask(edited)
        assert len(edited) - other.cached_tokens <= len(message) + 1
        back = ask(last)
        assert len(last) - back.cached_tokens <= len(message) + 1
        prompt, first = last, back


def test_a_long_prompt_that_is_edited_in_the_middle(ask: Callable[..., Generation]) -> None:
    policy = Reuse(every=64, checkpoints=16)
    prompt = prompt_of(6, 700)
    assert ask(prompt, policy).cached_tokens == 0
    for at in (650, 500, 333, 130):
        edited = [*prompt[:at], *prompt_of(at, 40)]
        assert at - 64 < ask(edited, policy).cached_tokens <= at
        prompt = edited


@pytest.mark.parametrize(
    "policy", [Reuse(checkpoints=1), Reuse(checkpoints=2, every=50), Reuse(checkpoints=0), Reuse(nbytes=0)]
)
def test_few(context: pyllama.Context, ask: Callable[..., Generation], policy: Reuse) -> None:
    keeps = policy.checkpoints > 0 and policy.nbytes != 0
    prompt = prompt_of(7, 200)
    done = ask(prompt, policy)
    assert ask([*prompt, *done.tokens, 50], policy).cached_tokens >= 200
    again = ask([*prompt, *done.tokens, 50], policy)
    assert (again.cached_tokens > 200) == keeps
    assert bool(context.kept.saved) == keeps


def test_bytes(context: pyllama.Context, ask: Callable[..., Generation]) -> None:
    prompt = prompt_of(8, 400)
    ask(prompt, Reuse(every=50, checkpoints=100, nbytes=None))
    size = sum(one.nbytes for one in context.kept.saved)
    assert len(context.kept.saved) == 8
    context.clear()
    ask(prompt, Reuse(every=50, checkpoints=100, nbytes=size // 2))
    assert 1 <= len(context.kept.saved) <= 6
    ask(prompt[:399], Reuse(checkpoints=2))
    assert len(context.kept.saved) <= 2


def test_places_and_what_follows_from_other_uses(
    context: pyllama.Context, ask: Callable[..., Generation]
) -> None:
    prompt = prompt_of(9, 100)
    ask(prompt, Reuse(where="host"))
    ask(prompt, False)
    assert context.kept.saved == []
    ask(prompt)
    context.sequence(0).feed([50])
    assert ask(prompt).cached_tokens == 0, "somebody else fed it"
    for bad in ({"checkpoints": -1}, {"every": -1}, {"nbytes": -1}, {"where": "moon"}):
        with pytest.raises(UsageError):
            Reuse(**bad)  # type: ignore[arg-type]


@given(
    held=st.integers(0, 3000),
    more=st.integers(0, 3000),
    length=st.integers(1, 3000),
    every=st.integers(0, 900),
)
def test_where_states_are_saved(held: int, more: int, length: int, every: int) -> None:
    held = min(held, length - 1)
    departs = min(held + more, length - 1)
    found = list(places(held, departs, length, every))
    assert found == sorted(set(found)) and all(max(held, 1) <= place < length for place in found)
    assert departs in found or departs == 0
    if length > 1 and (not departs or length - departs > NEAR):
        assert found[-1] == length - 1
    if every:
        gaps = [b - a for a, b in zip([held, *found], [*found, length], strict=True)]
        assert max(gaps) <= every


@given(st.lists(st.integers(1, 10000), min_size=2, max_size=12, unique=True))
def test_the_last_state_is_never_the_one_to_go(lengths: list[int]) -> None:
    ordered = sorted(lengths)
    assert 0 <= expendable(ordered) < len(ordered) - 1


def test_states_stay_where_they_are_needed() -> None:
    """Of many, those near the end stay close together, and those far away are spread out."""
    lengths = [*range(500, 20001, 500), 20020, 20050]
    while len(lengths) > 8:
        lengths.pop(expendable(lengths))
    assert lengths[-3:] == [20000, 20020, 20050]
    assert lengths[0] < 15000

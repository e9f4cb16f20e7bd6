"""Which states are kept for the next prompt where tokens cannot be taken back, and what they save."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from drafted import prompt_of, run
from hypothesis import given
from hypothesis import strategies as st
from same_bits import NAMES, options, write_same_bits

import pyllama
from pyllama import Generation, Reuse, lib, prefix
from pyllama.errors import ContextError, UsageError
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
    context.decode([50])
    assert ask(prompt).cached_tokens == 0, "nobody wrote down what was decoded"
    for bad in ({"checkpoints": -1}, {"every": -1}, {"nbytes": -1}, {"where": "moon"}):
        with pytest.raises(UsageError):
            Reuse(**bad)  # type: ignore[arg-type]


@pytest.fixture(params=NAMES)
def any_context(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[pyllama.Context]:
    """Of every kind of memory, where the bits do not depend on how a text is cut."""
    with (
        pyllama.Model(write_same_bits(request.param, tmp_path)) as model,
        model.context(**options(n_ctx=N_CTX)) as made,
    ):
        yield made


def answer(context: pyllama.Context, prompt: list[int], known: int | None) -> Generation:
    """Generate and compare with an empty context; `known` is how many tokens are not read, None for any."""
    done = run(context, prompt, max_tokens=8, reuse=True, logprobs=2)
    with context.model.context(**options(n_ctx=N_CTX)) as fresh:
        alone = run(fresh, prompt, max_tokens=8, logprobs=2)
    assert known is None or done.cached_tokens == known
    assert done.logprobs and alone.logprobs
    if pyllama.build_info().pin == "2025-08" and not (context.rewinds or context.recurrent):
        # A restored window lies in other cells there, and is summed up in another order.
        assert done.logprobs[0].logprob == pytest.approx(alone.logprobs[0].logprob, abs=0.05)
    else:
        assert (done.tokens, done.logprobs) == (alone.tokens, alone.logprobs)
    return done


def test_what_was_fed_is_not_read_again(any_context: pyllama.Context) -> None:
    context, prompt = any_context, prompt_of(20, 40)
    seq = context.sequence(0)
    seq.feed(prompt[:30])
    seq.feed(prompt[30:])
    first = answer(context, [*prompt, 50], 40)
    seq.feed([60, 61])
    held = [*prompt, 50, *first.tokens][: seq.length - 2]
    answer(context, [*held, 60, 61, 62], len(held) + 2)
    seq.clear()
    answer(context, prompt, 0)
    seq.clear()
    seq.feed(prompt[:5])
    answer(context, prompt, 5)


def test_branches(any_context: pyllama.Context) -> None:
    """From a checkpoint, whole or partial, only what is new is read, as often as one likes."""
    context, stem = any_context, prompt_of(21, 50)
    seq = context.sequence(0)
    seq.feed(stem)
    with seq.checkpoint() as whole, seq.checkpoint(partial=True) as partial:
        for i, saved in enumerate((whole, partial, whole, partial)):
            branch = [*stem, *prompt_of(30 + i, 20)]
            first = answer(context, branch, 50)
            answer(context, [*branch, *first.tokens, 50], seq.length)
            seq.restore(saved)
            states = context.kept.saved
            assert all(one.length <= 50 for one in states), "of the other branch"
            assert lib.llama_memory_checkpoint_count(context.ptr, -1) == len(states) + 2
        seq.clear()
        seq.restore(whole)
        assert bytes(seq.dumps()) == bytes(seq.dumps(tokens=stem)), "a file knows the text, too"
        answer(context, [*stem, 60], 50)


def test_a_partial_checkpoint_on_another_text(any_context: pyllama.Context) -> None:
    """It knows how many tokens it builds on, not which: nothing is known after it."""
    context, stem = any_context, prompt_of(22, 50)
    seq = context.sequence(0)
    seq.feed(stem)
    with seq.checkpoint(partial=True) as partial:
        seq.clear()
        seq.feed([*prompt_of(23, 50), 50, 51])
        with contextlib.suppress(ContextError):
            seq.restore(partial)
            answer(context, [*stem, 50], 0)


@pytest.mark.parametrize("edit", ["decode", "adapters", "control vector", "another sequence", "a hole"])
def test_edits_between(tmp_path: Path, edit: str) -> None:
    with (
        pyllama.Model(write_same_bits("attention", tmp_path)) as model,
        model.context(**options(n_ctx=N_CTX, n_seq_max=2, kv_unified=True)) as context,
    ):
        seq, stem = context.sequence(0), prompt_of(24, 40)
        edits = {
            "decode": lambda: context.decode([50]),
            "adapters": lambda: context.set_loras([]),
            "control vector": lambda: context.set_control_vector(None),
            "another sequence": lambda: context.sequence(1).copy_to(seq),
            "a hole": lambda: seq.remove(3, 5),
        }
        seq.feed(stem)
        with seq.checkpoint() as saved:
            edits[edit]()
            answer(context, [*stem, 51], 0)
            seq.restore(saved)
            answer(context, [*stem, 52], 0 if edit in ("adapters", "control vector") else 40)
            seq.restore(saved)
            edits[edit]()
            with seq.checkpoint() as later:
                seq.clear()
                seq.restore(later)
                answer(context, [*stem, 53], 0)
            context.sequence(1).feed(stem)
            with context.sequence(1).checkpoint() as other:
                seq.restore(other)
                answer(context, [*stem, 54], 0)


def test_experts_between(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("moe")) as model, model.context(n_ctx=256, threads=1) as context:
        seq, stem = context.sequence(0), prompt_of(25, 40)
        seq.feed(stem)
        with seq.checkpoint() as saved:
            context.set_experts(1)
            seq.restore(saved)
            assert run(context, [*stem, 50], max_tokens=4, reuse=True).cached_tokens == 0


def test_tokens_that_are_taken_back(any_context: pyllama.Context) -> None:
    """A cut window lacks then what the next token looks back at: what is there is not gone on from."""
    context, stem = any_context, prompt_of(26, 60)
    seq = context.sequence(0)
    seq.feed(stem)
    try:
        seq.remove(40)
    except ContextError:
        assert context.recurrent
    answer(context, [*stem[:50], 50], 40 if context.rewinds else 0)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_known_is_what_is_there(any_context: pyllama.Context, seed: int) -> None:
    """Whatever is done to sequence 0, in any order, by what is known of it."""
    context, chance = any_context, random.Random(seed)
    seq, words = context.sequence(0), itertools.cycle(prompt_of(27, 501))
    truth: list[int] = []
    states: list[tuple[pyllama.Checkpoint, list[int]]] = []
    known = 0
    for step in range(150):
        what = chance.choice(["feed", "feed", "save", "save", "restore", "restore", "remove", "ask", "clear"])
        if what == "feed" and len(truth) < 400:
            more = [next(words) for _ in range(chance.choice([1, 1, 7, 40]))]
            seq.feed(more)
            truth = [*truth, *more]
        elif what == "save":
            states.append((seq.checkpoint(partial=chance.random() < 0.3), truth))
        elif what == "restore" and states:
            saved, then = chance.choice(states)
            if saved.partial and truth[: len(then)] != then:
                continue  # it would be some other text
            with contextlib.suppress(ContextError):  # an empty sequence has nothing to build on
                seq.restore(saved)
                truth = then
        elif what == "remove" and context.rewinds and truth:
            start = chance.randrange(len(truth))
            seq.remove(start)
            truth = truth[:start]
        elif what == "ask":
            prompt = [*truth[: chance.choice([len(truth), len(truth) // 2])], next(words), next(words)]
            done = answer(context, prompt, None)
            known += done.cached_tokens
            truth = [*prompt, *done.tokens][: seq.length]
        elif what == "clear" and step % 5 == 0:
            seq.clear()
            truth = []
        assert seq.length == len(truth)
        assert prefix.held(context) == truth, (step, what)
        count = len(context.kept.saved) + len(states)
        assert lib.llama_memory_checkpoint_count(context.ptr, -1) == count
    assert known, "it was worth it"
    if truth:
        answer(context, [*truth, 50, 51], len(truth))
    for saved, then in states:
        if not saved.partial:
            seq.restore(saved)
            assert prefix.held(context) == then
    if truth:
        seq.restore(next(saved for saved, _ in reversed(states) if not saved.partial))
        held = list(prefix.held(context) or ())
        answer(context, [*held, 50, 51], len(held))


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

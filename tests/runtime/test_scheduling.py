"""The planning of `generate_many`, on a memory that only counts: nothing is lost, nobody starves."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from pyllama.prefix import common_length
from pyllama.scheduling import SHARED, Copy, Keep, Refuse, Scheduler, Task


@dataclass
class Memory:
    """The cells of a cache as tokens of sequences, shared ones counted once, as in a unified cache."""

    slots: int
    cells: int
    tokens: list[list[int]] = field(default_factory=list)
    cell: list[list[int]] = field(default_factory=list)  # a number for each cell
    made: int = 0

    def __post_init__(self) -> None:
        self.tokens = [[] for _ in range(self.slots)]
        self.cell = [[] for _ in range(self.slots)]

    @property
    def used(self) -> int:
        return len({number for cells in self.cell for number in cells})

    def apply(self, action: Keep | Copy) -> None:
        if isinstance(action, Keep):
            assert action.n <= len(self.tokens[action.slot])
            del self.tokens[action.slot][action.n :], self.cell[action.slot][action.n :]
        else:
            assert not self.tokens[action.slot] and action.n <= len(self.tokens[action.source])
            self.tokens[action.slot] = self.tokens[action.source][: action.n]
            self.cell[action.slot] = self.cell[action.source][: action.n]

    def room(self, slot: int) -> int:
        return self.cells - self.used

    def decode(self, parts: list[tuple[int, list[int]]]) -> bool:
        if sum(len(tokens) for _, tokens in parts) > self.cells - self.used:
            return False
        for slot, tokens in parts:
            for token in tokens:
                self.made += 1
                self.tokens[slot].append(token)
                self.cell[slot].append(self.made)
        return True


@dataclass(frozen=True)
class Case:
    prompts: list[list[int]]
    wanted: list[int]
    slots: int
    batch: int
    chunk: int
    cells: int
    trims: bool
    copies: bool
    mixes: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    stem = list(range(100, 100 + draw(st.integers(0, 3 * SHARED))))
    prompts = draw(
        st.lists(
            st.tuples(st.integers(0, len(stem)), st.lists(st.integers(0, 3), min_size=1, max_size=50)),
            min_size=1,
            max_size=12,
        )
    )
    trims = draw(st.booleans())
    return Case(
        [stem[:n] + rest for n, rest in prompts],
        [draw(st.integers(1, 30)) for _ in prompts],
        draw(st.integers(1, 5)),
        draw(st.integers(1, 80)),
        draw(st.integers(1, 80)),
        draw(st.integers(20, 400)),
        trims,
        trims and draw(st.booleans()),
        draw(st.booleans()),
    )


def answer(tokens: list[int]) -> int:
    """A model: the next token depends on all tokens before it."""
    return hash(tuple(tokens)) % 1000


@dataclass
class Run:
    answers: dict[int, list[int]] = field(default_factory=dict)
    cut: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    admitted: list[int] = field(default_factory=list)
    read: int = 0
    most: int = 0


def run(case: Case) -> Run:
    """Carry everything out, and check each step."""
    memory, seen = Memory(case.slots, case.cells), Run()
    tasks = [Task(i, list(prompt)) for i, prompt in enumerate(case.prompts)]
    plan = Scheduler(
        tasks,
        case.slots,
        batch=case.batch,
        chunk=case.chunk,
        trims=case.trims,
        copies=case.copies,
        mixes=case.mixes,
    )
    steps = 0
    while plan.busy:
        steps += 1
        assert steps < 20_000, "somebody waits for ever"
        before = set(plan.running)
        while (action := plan.admit(memory.room)) is not None:
            if isinstance(action, Refuse):
                assert not plan.running and not memory.used, "it was refused although others were there"
                seen.refused.add(action.index)
            else:
                assert isinstance(action, Copy) or case.trims or action.n == 0
                assert case.copies or isinstance(action, Keep)
                memory.apply(action)
            assert memory.tokens == plan.held
        for slot in plan.running:
            if slot not in before and plan.running[slot].index not in seen.admitted:
                seen.admitted.append(plan.running[slot].index)
        if len(plan.running) > len(before) > 0:
            waiting = sum(len(task.tokens) - len(plan.held[slot]) for slot, task in plan.running.items())
            assert waiting <= case.cells - memory.used, "more was let in than there is room for"
        parts = plan.fill()
        assert bool(parts) == bool(plan.running)
        if not parts:
            continue
        total = sum(len(part.tokens) for part in parts)
        going_on = any(len(t.tokens) - len(plan.held[slot]) == 1 for slot, t in plan.running.items())
        assert total <= (min(case.chunk, case.batch) if going_on else case.batch)
        assert case.mixes or len(parts) == 1
        assert len({part.slot for part in parts}) == len(parts) and all(part.tokens for part in parts)
        if not memory.decode([(part.slot, part.tokens) for part in parts]):
            oldest = next(iter(plan.running.values()))
            relief = plan.relieve()
            if relief is None:
                ((slot, task),) = plan.running.items()
                seen.cut.add(task.index)
                done = plan.finish(slot)
                if done is not None:
                    memory.apply(done)
            else:
                memory.apply(relief)
                assert next(iter(plan.running.values())) is oldest, "the oldest one goes on"
            continue
        plan.done(parts)
        seen.read += total
        assert memory.tokens == plan.held
        seen.most = max(seen.most, len(plan.running))
        for part in parts:
            task = plan.running[part.slot]
            assert part.output == (memory.tokens[part.slot] == task.tokens)
            if not part.output:
                continue
            made = seen.answers.setdefault(part.index, [])
            made.append(answer(memory.tokens[part.slot]))
            if len(made) == case.wanted[part.index]:
                done = plan.finish(part.slot)
                if done is not None:
                    memory.apply(done)
            else:
                plan.generated(part.slot, made[-1])
    return seen


def alone(prompt: list[int], n: int) -> list[int]:
    tokens, made = list(prompt), []
    for _ in range(n):
        made.append(answer(tokens))
        tokens.append(made[-1])
    return made


@settings(max_examples=150, deadline=None)
@given(cases())
def test_every_request_gets_what_it_would_get_alone(case: Case) -> None:
    seen = run(case)
    for i, (prompt, n) in enumerate(zip(case.prompts, case.wanted, strict=True)):
        whole = alone(prompt, n)
        if i in seen.refused:
            assert len(prompt) > case.cells
        elif i in seen.cut:  # it had all cells for itself
            made = seen.answers.get(i, [])
            assert made == whole[: len(made)] and len(prompt) + len(made) > case.cells
        else:
            assert seen.answers[i] == whole


@settings(max_examples=50, deadline=None)
@given(cases())
def test_they_come_in_in_the_order_in_which_they_were_given(case: Case) -> None:
    admitted = run(case).admitted
    assert admitted == sorted(admitted)


def _plain(**changes: object) -> Case:
    case = {
        "prompts": [[i] * 40 for i in range(6)],
        "wanted": [20] * 6,
        "slots": 3,
        "batch": 64,
        "chunk": 16,
        "cells": 10_000,
        "trims": True,
        "copies": True,
        "mixes": True,
    }
    return Case(**{**case, **changes})  # type: ignore[arg-type]


def test_slots_are_filled_again_as_soon_as_one_is_free() -> None:
    seen = run(_plain(wanted=[60, 1, 1, 1, 1, 1]))
    assert seen.most == 3 and seen.read == 6 * 40 + 59


def test_a_prompt_does_not_stop_the_others() -> None:
    """While a prompt of 500 tokens is read, the other text gets a token in each step."""
    plan = Scheduler([Task(0, [1, 2]), Task(1, list(range(500)))], 2, batch=64, chunk=16)
    while plan.admit(lambda slot: None):
        pass
    plan.done(first := plan.fill())
    assert [len(part.tokens) for part in first] == [2, 62] or [len(part.tokens) for part in first] == [64]
    steps = 0
    while len(plan.held[1]) < 500:
        if len(plan.held[0]) == len(plan.running[0].tokens):
            plan.generated(0, 7)
        parts = plan.fill()
        plan.done(parts)
        assert parts[0].slot == 0 and parts[0].output and sum(len(part.tokens) for part in parts) <= 16
        steps += 1
    assert steps == -(-(500 - 62) // 15)


def test_what_prompts_have_in_common_is_read_once() -> None:
    stem = list(range(200))
    prompts = [[*stem, 1000 + i, 1] for i in range(9)]
    seen = run(_plain(prompts=prompts, wanted=[5] * 9))
    assert seen.read == 200 + 9 * (2 + 4)
    apart = run(_plain(prompts=prompts, wanted=[5] * 9, copies=False))
    assert 200 + 9 * 6 < apart.read < 9 * 206, "a slot that is free goes on from what it holds"
    assert run(_plain(prompts=prompts, wanted=[5] * 9, copies=False, trims=False)).read == 9 * 206


def test_put_back_for_lack_of_room_and_read_again() -> None:
    seen = run(_plain(cells=150, wanted=[100] * 6))
    assert not seen.cut and not seen.refused
    assert seen.read > 6 * 139, "some of it twice"


def test_a_few_tokens_in_common_are_not_worth_it() -> None:
    assert common_length([1, 2, 3], [1, 2, 4]) == 2
    short = list(range(SHARED - 1))
    seen = run(_plain(prompts=[[*short, i + 50] for i in range(3)], wanted=[1] * 3))
    assert seen.read == 3 * SHARED

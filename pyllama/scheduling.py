"""Which tokens of which texts are computed next, and what leaves the memory: the planning of `generate_many`.

Pure: it counts tokens and compares them, and knows neither a model nor a context. A *slot* is a sequence of
a context; what it holds stays there when its task is over, as long as another text may go on from it and the
room is not needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .prefix import common_length

SHARED = 32  # tokens; to share fewer is not worth it
HEADROOM = 16  # tokens that each running text should be able to grow by when another one comes in

Room = Callable[[int], "int | None"]
"""Says how many more tokens a slot's sequence could take now; None: any number."""


@dataclass
class Task:
    """A text to be continued."""

    index: int
    """Its place among the requests."""
    tokens: list[int]
    """What its sequence has to hold before the next token can be chosen: prompt and answer so far."""


@dataclass(frozen=True)
class Keep:
    """Take everything after the first `n` tokens out of a slot."""

    slot: int
    n: int = 0


@dataclass(frozen=True)
class Copy:
    """Let a slot, which is empty, hold the first `n` tokens of another one."""

    source: int
    slot: int
    n: int


@dataclass(frozen=True)
class Refuse:
    """A task does not fit although everything else is gone; it is no longer known."""

    index: int


@dataclass(frozen=True)
class Part:
    """Tokens of one task in the next batch; with `output`, they are its last ones and a token follows."""

    index: int
    slot: int
    tokens: list[int]
    output: bool


class Scheduler:
    """Plans for tasks that are taken in the order in which they were given.

    `batch` is the number of tokens that a step may have, `chunk` that of one while texts are being
    continued, so that nobody waits long for a prompt of another. `trims` says whether tokens can be taken off
    the end of a slot, `copies` whether slots can share tokens, `mixes` whether a step may have several slots,
    `pooled` whether what one slot takes is missing from the others.

    A step is: carry out what `admit` returns until that is None; decode what `fill` returns; tell `done`,
    then `generated` or `finish` for each part with an output. When there was no room, carry out `relieve`
    instead and begin again.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        slots: int,
        *,
        batch: int,
        chunk: int,
        trims: bool = True,
        copies: bool = True,
        mixes: bool = True,
        pooled: bool = True,
    ) -> None:
        self.waiting = deque(tasks)
        self.running: dict[int, Task] = {}
        """The task of each slot that has one, the first that came in first."""
        self.held: list[list[int]] = [[] for _ in range(slots)]
        """What is in each slot."""
        self._batch = batch
        self._chunk = min(batch, chunk)
        self._trims = trims
        self._copies = copies
        self._mixes = mixes
        self._pooled = pooled
        self._steps = 0
        self._served = [0] * slots

    @property
    def busy(self) -> bool:
        """Whether there is a task that is not over."""
        return bool(self.waiting or self.running)

    def admit(self, room: Room) -> Keep | Copy | Refuse | None:
        """Return what to do to the memory next, so that waiting tasks can run; None when that is all."""
        while self.waiting:
            task = self.waiting[0]
            idle = [slot for slot in range(len(self.held)) if slot not in self.running]
            if not idle:
                return None
            source, shared = self._most_alike(task, idle)
            if source in self.running and len(self.held[source]) < shared:
                return None  # it is being read at this moment: copy it then
            slot = source if source in idle else min(idle, key=lambda slot: len(self.held[slot]))
            keep = shared if source in idle else 0
            if len(self.held[slot]) > keep:
                return self._cut(slot, keep)
            if not self._fits(task, shared, room(slot)):
                return self._make_room(task, slot)
            self.waiting.popleft()
            self.running[slot] = task
            if source in self.running and source != slot:
                self.held[slot] = task.tokens[:shared]
                return Copy(source, slot, shared)
        return None

    def fill(self) -> list[Part]:
        """Return the next step: a token of each text that goes on, and as much of prompts as fits."""
        self._steps += 1
        order = sorted(self.running, key=lambda slot: self._served[slot])
        left = self._chunk if any(self._unread(slot) == 1 for slot in order) else self._batch
        if not self._mixes:
            order = order[:1]
        ready = [slot for slot in order if self._unread(slot) == 1]
        reading = [slot for slot in self.running if slot in order and self._unread(slot) > 1]
        parts = []
        for slot in [*ready, *reading]:
            n = min(left, self._unread(slot))
            if n:
                left -= n
                self._served[slot] = self._steps
                parts.append(self._part(slot, n))
        return parts

    def done(self, parts: Iterable[Part]) -> None:
        """Take note that a step was decoded."""
        for part in parts:
            self.held[part.slot].extend(part.tokens)

    def generated(self, slot: int, token: int) -> None:
        """Take note of the token that follows."""
        self.running[slot].tokens.append(token)

    def finish(self, slot: int) -> Keep | None:
        """Take note that a slot's task is over; return what to do to the memory, if anything."""
        del self.running[slot]
        held = self.held[slot]
        useful = self._trims and any(common_length(held, task.tokens) >= SHARED for task in self.waiting)
        return self._cut(slot, 0) if held and not useful else None

    def relieve(self) -> Keep | None:
        """Make room after a step that did not fit: return what to do to the memory, None for a lone task.

        What is only kept for later goes first, then the task that came in last: it is put back, to be read
        again.
        """
        for slot in self._spare():
            return self._cut(slot, 0)
        if len(self.running) < 2:
            return None
        slot = next(reversed(self.running))
        self.waiting.appendleft(self.running.pop(slot))
        return self._cut(slot, 0)

    def _most_alike(self, task: Task, idle: list[int]) -> tuple[int, int]:
        """Return the slot that the task has most in common with, and how much; -1 and 0 for none.

        One token at least is left to be read. Of equals, an idle slot goes first: nothing is copied.
        """
        best = (0, False, -1)
        for slot, held in enumerate(self.held):
            if slot in idle:
                theirs = held if self._trims else []
            else:
                theirs = self.running[slot].tokens if self._copies else []
            n = min(common_length(task.tokens, theirs), len(task.tokens) - 1)
            if n >= SHARED:
                best = max(best, (n, slot in idle, slot))
        return best[2], best[0]

    def _fits(self, task: Task, shared: int, room: int | None) -> bool:
        if room is None:
            return True
        needed = len(task.tokens) - shared
        if self.running and self._pooled:
            needed += sum(map(self._unread, self.running)) + HEADROOM * (len(self.running) + 1)
        return needed <= room

    def _make_room(self, task: Task, slot: int) -> Keep | Refuse | None:
        for spare in self._spare():
            if spare != slot:
                return self._cut(spare, 0)
        if self.running:
            return None  # wait for one of them
        if self.held[slot]:
            return self._cut(slot, 0)
        self.waiting.popleft()
        return Refuse(task.index)

    def _spare(self) -> Iterator[int]:
        return (slot for slot, held in enumerate(self.held) if held and slot not in self.running)

    def _cut(self, slot: int, n: int) -> Keep:
        del self.held[slot][n:]
        return Keep(slot, n)

    def _unread(self, slot: int) -> int:
        return len(self.running[slot].tokens) - len(self.held[slot])

    def _part(self, slot: int, n: int) -> Part:
        task, start = self.running[slot], len(self.held[slot])
        return Part(task.index, slot, task.tokens[start : start + n], start + n == len(task.tokens))

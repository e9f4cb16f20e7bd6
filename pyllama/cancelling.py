"""Stopping what is being computed: by a `Cancel` from any thread, by Ctrl-C, and when the interpreter exits.

llama.cpp's CPU backend asks a callback after each node of a graph whether to go on. Ours reads one int that
belongs to the context, in C. Whoever wants to stop a decode sets that int; whoever decodes puts the sequences
back to what they held before.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import interrupts
from .errors import Cancelled, Error
from .saving import PARTIAL

if TYPE_CHECKING:
    from typing_extensions import Self

    from .context import Context

LONG = 32  # tokens; below, a decode is over soon, and nothing is spent on being able to stop it

_scopes: ContextVar[tuple[Cancel, ...]] = ContextVar("pyllama_cancel", default=())
scopes = _scopes.get
"""The `Cancel`s in whose `with` blocks this code runs."""


class Cancel:
    """Stops what is computed inside its `with` block.

        with pyllama.Cancel() as cancel:
            button.on_click(cancel.set)
            for piece in pyllama.stream(context, prompt): ...

    `set` may be called from any thread, and from a signal handler. What decodes then raises `Cancelled`: on
    the CPU within one node of the graph, on other devices before the next ubatch. Blocks can be nested, and
    one object can be used for several blocks and threads. A stream obeys the blocks around the place where
    its pieces are asked for.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may come while the same thread holds it
        self._flags: list[Any] = []
        self._set = False

    @property
    def is_set(self) -> bool:
        """Whether `set` was called."""
        return self._set

    def set(self) -> None:
        """Stop what is being computed, and all that begins later. A second call does nothing."""
        with self._lock:
            self._set = True
            for flag in self._flags:
                flag[0] = 1

    def attach(self, flag: Any) -> None:
        """Set this int, too, from now on."""
        with self._lock:
            self._flags.append(flag)
            if self._set:
                flag[0] = 1

    def detach(self, flag: Any) -> None:
        """Leave the int alone."""
        with self._lock:
            self._flags.remove(flag)

    def __enter__(self) -> Self:
        _scopes.set((*scopes(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        inside = list(scopes())
        inside.reverse()
        inside.remove(self)
        _scopes.set(tuple(reversed(inside)))

    def __repr__(self) -> str:
        return f"<Cancel{' set' if self._set else ''}>"


class Undo:
    """A `with` block around decodes that can be stopped, and are then undone; the caller holds the lock.

    What cannot be taken back (recurrent states, cut windows) is saved before, when there is a `Cancel`: for
    fewer than `LONG` tokens it is quicker to let the graph end. Where it could not be saved, the sequence is
    cleared: half a state is none.
    """

    def __init__(self, context: Context, sequences: Iterable[int], n: int) -> None:
        self._context = context
        self._n = n
        self._scopes = scopes()
        self._stoppable = context.rewinds or n >= LONG
        self._saved: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._raw = raw = context.library.raw
        self._memory = raw.llama_get_memory(context.ptr)
        if any(scope.is_set for scope in self._scopes):
            raise Cancelled(f"{n} tokens were not decoded: it was cancelled before, and nothing changed")
        if self._memory:
            self._ends = {i: raw.llama_memory_seq_pos_max(self._memory, i) + 1 for i in set(sequences)}

    def __enter__(self) -> Self:
        context, raw = self._context, self._raw
        save = getattr(raw, "llama_memory_checkpoint_save", None)
        if save is not None and self._stoppable and self._scopes and not context.rewinds:
            place = raw.LLAMA_CHECKPOINT_DEVICE_OR_HOST
            saved = {i: int(save(context.ptr, i, PARTIAL, place)) for i, end in self._ends.items() if end}
            self._saved = {i: checkpoint for i, checkpoint in saved.items() if checkpoint}
        context.undo = self
        return self

    def decode(self, batch: Any) -> int:
        """Call `llama_decode` and return its code."""
        context, raw = self._context, self._raw
        flag = context.stop_flag
        if not self._stoppable:
            return int(raw.llama_decode(context.ptr, batch))
        attached = []
        try:
            for scope in self._scopes:
                scope.attach(flag)
                attached.append(scope)
            if self._n < LONG:
                return int(raw.llama_decode(context.ptr, batch))
            with interrupts.watched(flag):
                return int(raw.llama_decode(context.ptr, batch))
        finally:
            for scope in attached:
                scope.detach(flag)
            flag[0] = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        context, raw = self._context, self._raw
        context.undo = None
        stopped = error is not None and (isinstance(error, Cancelled) or not isinstance(error, Error))
        if stopped and self._stoppable:
            self._back(error)
        for saved in self._saved.values():
            raw.llama_memory_checkpoint_delete(context.ptr, saved)

    def _back(self, error: BaseException | None) -> None:
        context, raw, memory = self._context, self._raw, self._memory
        raw.llama_synchronize(context.ptr)
        cleared = []
        for i, end in self._ends.items():
            if end == 0 or (context.rewinds and raw.llama_memory_seq_rm(memory, i, end, -1)):
                done = end > 0 or raw.llama_memory_seq_rm(memory, i, -1, -1)
            else:
                done = i in self._saved and raw.llama_memory_checkpoint_restore(
                    context.ptr, self._saved[i], i
                )
            if not done:
                raw.llama_memory_seq_rm(memory, i, -1, -1)
                cleared.append(i)
        if cleared:  # else all is as it was, and whoever knew what is there still does
            context.edited()
        if isinstance(error, Cancelled):
            error.cleared = tuple(cleared)
            error.args = (
                f"the decoding of {self._n} tokens was cancelled: "
                + (
                    f"the sequences {cleared} were cleared, since half a recurrent state is of no use"
                    if cleared
                    else "the sequences hold what they held before"
                ),
            )


# ---- exit ----

_contexts: weakref.WeakSet[Context] = weakref.WeakSet()
_PATIENCE = 10.0  # seconds
_exiting = False
_making: list[threading.Thread] = []
_changed = threading.Condition()


def register(context: Context) -> Any:
    """Let a new context be stopped; return the int that stops it."""
    library = context.library
    flag = library.ffi.new("int *")
    callback = library.ffi.addressof(library.raw, "pyllama_abort")
    library.raw.llama_set_abort_callback(context.ptr, callback, flag)
    _contexts.add(context)
    return flag


def _at_exit() -> None:
    """Stop what daemon threads compute, and let them compute no more: the libraries are about to go.

    This thread keeps every context's lock, so that it can still use them itself.
    """
    global _exiting
    with _changed:
        _exiting = True
        _changed.wait_for(lambda: not _others(), _PATIENCE)
    waiting = list(_contexts)
    for context in waiting:
        context.stop_flag[0] = 1
    for context in waiting:
        if context.lock.acquire(timeout=_PATIENCE):
            context.stop_flag[0] = 0


atexit.register(_at_exit)


def end_thread_at_exit() -> None:
    """End this thread without a word when it was stopped because the interpreter exits."""
    if _exiting and threading.current_thread() is not threading.main_thread():
        raise SystemExit


@contextmanager
def making() -> Iterator[None]:
    """Let the interpreter exit only when what is made inside is there: a model or a context.

    Nothing that can be stopped, and C++ takes the libraries' tables away while another thread reads them.
    """
    me = threading.current_thread()
    with _changed:
        end_thread_at_exit()
        _making.append(me)
    try:
        yield
    finally:
        with _changed:
            _making.remove(me)
            _changed.notify_all()
    end_thread_at_exit()


def _others() -> list[threading.Thread]:
    """Return the threads that make something, but this one."""
    me = threading.current_thread()
    return [thread for thread in _making if thread is not me]


def _forget() -> None:
    """In a child only this thread goes on."""
    global _changed
    _changed = threading.Condition()
    _making.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

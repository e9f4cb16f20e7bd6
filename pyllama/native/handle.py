"""Owned C objects: freed exactly once, children before parents, in any order of closing."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

from ..errors import ClosedError, ForkError
from .closing import Closing


class _Owned:
    """One C object and what was made from it.

    A parent knows its children's objects and not their handles: when the collector finds
    parent and child together, it finalises them in any order, and weak references are gone.
    `borrowed` has an entry for each array that looks at memory of the C object: while there is one,
    the object is closed for its users and freed only when the last array is gone.

    `lock` is held as long as a call takes, `guard` only while the object is freed, or asked something that
    takes no time. Who holds a guard takes no other lock. A parent's lock is taken before a child's.
    """

    __slots__ = (
        "__weakref__",
        "borrowed",
        "children",
        "foreign",
        "free",
        "guard",
        "late",
        "lock",
        "parent",
        "ptr",
    )

    def __init__(self, ptr: Any, free: Callable[[Any], None], parent: _Owned | None) -> None:
        self.ptr = ptr
        self.free = free
        self.parent = parent
        self.children: set[_Owned] = set()
        self.lock = threading.RLock()
        self.guard = threading.RLock()
        self.foreign = False
        self.borrowed: list[None] = []  # a list: its methods are atomic, and the collector may call
        self.late: Any = None
        if parent is None:
            _roots.add(self)

    def release(self) -> None:
        with self.lock:  # a call that is under way, also one that makes a child, ends first
            for child in list(self.children):
                child.release()
            ptr, self.ptr = self.ptr, None
            if ptr is not None:
                self.late = ptr
        self.settle()

    def settle(self) -> None:
        """Free what was released, unless an array or a child still needs it."""
        with self.lock, self.guard:  # under the guard, children may come
            if self.late is None or self.borrowed or self.children:
                return
            late, self.late = self.late, None
            self.free(late)
        if self.parent is not None:
            self.parent.children.discard(self)
            if self.parent.late is not None:  # else its lock is none of ours: others wait for us with it
                self.parent.settle()

    def lend(self, array: object) -> None:
        """Keep the C object until `array`, which looks at its memory, is gone. The caller holds the lock."""
        self.borrowed.append(None)
        weakref.finalize(array, self.give_back).atexit = False

    def disown(self) -> None:
        """Leave the object alone, in a child process; threads that are not here may hold the locks."""
        self.lock, self.guard = threading.RLock(), threading.RLock()
        self.ptr = self.late = None
        self.foreign = True
        for child in self.children:
            child.disown()

    def give_back(self) -> None:
        self.borrowed.pop()
        if self.late is not None:
            self.settle()


_roots: weakref.WeakSet[_Owned] = weakref.WeakSet()


def _after_fork() -> None:
    for root in list(_roots):
        root.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Handle(Closing):
    """Base of every wrapper: `.ptr` is the C pointer, `with` and `close()` free it.

    A child keeps its parent alive; closing a parent closes its children first.
    """

    def __init__(self, ptr: Any, free: Callable[[Any], None], parent: Handle | None = None) -> None:
        self._owned: _Owned = _Owned(ptr, free, parent._owned if parent is not None else None)
        self._parent = parent
        if parent is not None:
            parent._owned.children.add(self._owned)

    @property
    def ptr(self) -> Any:
        """The C pointer, for use with `pyllama.lib`. Raises ClosedError after `close()`."""
        ptr = self._owned.ptr
        if ptr is None:
            if self._owned.foreign:
                raise ForkError(
                    f"this {type(self).__name__} belongs to the process that this one was forked from: start "
                    "processes with multiprocessing's 'spawn', and load the model in each"
                )
            raise ClosedError(f"this {type(self).__name__} is closed: make a new one")
        return ptr

    @property
    def lock(self) -> threading.RLock:
        """Held by every call that must not meet another one, or a close, on this object."""
        return self._owned.lock

    @property
    def guard(self) -> threading.RLock:
        """Held by calls that take no time and may meet any other, but not the freeing of this object."""
        return self._owned.guard

    @property
    def closed(self) -> bool:
        """True once the C object has been freed."""
        return self._owned.ptr is None

    def close(self) -> None:
        """Free the C object and everything made from it. Closing twice does nothing.

        An array of `Output.numpy` that is still there stays valid; what it looks at is freed with it.
        Waits for the decoding, sampling, tokenizing or making of a context that another thread is
        doing with it.
        """
        self._owned.release()

    def __del__(self) -> None:
        if hasattr(self, "_parent"):  # half-made objects own nothing
            try:  # noqa: SIM105 - at interpreter exit a global like `suppress` may be gone
                self.close()
            except Exception:
                pass

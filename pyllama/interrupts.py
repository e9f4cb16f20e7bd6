"""Ctrl-C during a long call of C.

Python runs the handler of a signal between two bytecodes of the main thread, so a call that takes minutes
would hold it up. Meanwhile Python's own C handler can write to a file descriptor: a thread waits there and
sets an int, which makes the call return, and KeyboardInterrupt is raised as always. That is done only where
it is certain to be raised: in the main thread, with Python's own handler, when nobody else has set such a
descriptor.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_flag: Any = None  # of the call that is under way
_descriptor: int | None = None


@contextmanager
def watched(flag: Any) -> Iterator[None]:
    """Set the int `flag` points to when Ctrl-C comes inside the block, if that can be had."""
    global _flag
    ours = _take() if _is_certain() else None
    if ours is None:
        yield
        return
    try:
        with _lock:
            _flag = flag
        yield
    finally:
        with _lock:
            _flag = None
        signal.set_wakeup_fd(-1)


def _is_certain() -> bool:
    return (
        threading.get_ident() == threading.main_thread().ident
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def _take() -> int | None:
    """Let signals be written to our file descriptor; None when somebody else has his there."""
    global _descriptor
    if _descriptor is None:
        try:
            reader, writer = os.pipe()
            os.set_blocking(writer, False)
            threading.Thread(target=_wait, args=(reader,), name="pyllama-interrupts", daemon=True).start()
        except (OSError, RuntimeError):  # too many files; an interpreter that exits starts no thread
            return None
        _descriptor = writer
    try:
        before = signal.set_wakeup_fd(_descriptor, warn_on_full_buffer=False)
    except ValueError:  # not the main interpreter
        return None
    if before not in (-1, _descriptor):
        signal.set_wakeup_fd(before)
        return None
    return _descriptor


def _wait(reader: int) -> None:
    while numbers := os.read(reader, 64):
        if signal.SIGINT in numbers:
            with _lock:
                if _flag is not None:
                    _flag[0] = 1


def _forget() -> None:
    """In a child the thread is not there, and the pipe is the parent's."""
    global _descriptor, _flag, _lock
    _lock = threading.Lock()
    _descriptor = _flag = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

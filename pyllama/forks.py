"""What a child made by `os.fork` can still do.

Only the thread that forks is there in the child. OpenMP, which computes for ggml, does not notice and waits
for the others for ever, so a child of a process that has computed with several threads makes no context. What
the parent had made is refused by `Handle`.
"""

from __future__ import annotations

import os

from .errors import ForkError

_used = False
_lost = False


def check(threads: int) -> None:
    """Take note of a context with so many threads. Raises ForkError where it would hang."""
    global _used
    if _lost:
        raise ForkError(
            "this process was forked from one that has computed with several threads, and would hang: start "
            "processes with multiprocessing's 'spawn', or fork before the first context is made"
        )
    _used = _used or threads > 1


def _after_fork() -> None:
    global _lost
    _lost = _lost or _used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

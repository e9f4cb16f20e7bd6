"""What speculative.py measures: seconds and calls of each phase, and the table of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PHASES = ("prompt", "draft", "verify", "save", "restore", "reread")


class Clock:
    """Seconds and calls per phase. A phase within another one is part of that."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.calls: Counter[str] = Counter()
        self._running = False

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside as `name`."""
        if self._running:
            yield
            return
        self._running, start = True, time.perf_counter()
        try:
            yield
        finally:
            self._running = False
            self.seconds[name] += time.perf_counter() - start
            self.calls[name] += 1

    def spent(self, seconds: float) -> dict[str, Any]:
        """Return `seconds`, and what each phase had of them: seconds and calls; "other" is the rest."""
        phases = {name: (self.seconds[name], self.calls[name]) for name in PHASES}
        return {"seconds": seconds, "phases": {**phases, "other": (seconds - sum(self.seconds.values()), 1)}}


def report(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines: milliseconds, share and calls of each phase; then what was accepted."""
    yield f"{'':8}{'ms':>10}{'%':>7}{'calls':>7}"
    for name, (seconds, calls) in {**found["phases"], "total": (found["seconds"], 1)}.items():
        yield f"{name:8}{seconds * 1e3:10.2f}{100 * seconds / found['seconds']:7.1f}{calls:7}"
    yield f"{found['accepted']} of {found['drafted']} drafted tokens accepted"
    yield f"{len(found['tokens'])} tokens in {found['rounds']} rounds"
    yield f"checkpoint: {found['checkpoint_bytes']} bytes"
    if "plain_seconds" in found:
        same = "the same tokens" if found["same"] else "OTHER TOKENS"
        yield f"plain decoding: {found['plain_seconds'] * 1e3:.2f} ms, {same}"

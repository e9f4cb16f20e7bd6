"""Progress: a live bar on a terminal, one line per finished stage in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn


class Stage:
    """One step of a job; `update` moves its bar, `note` is added to its closing line."""

    def __init__(self, bar: Progress | None, task: TaskID | None) -> None:
        self._bar = bar
        self._task = task
        self.note = ""

    def update(self, done: float, total: float | None = None, text: str = "") -> None:
        """Show that `done` of `total` units are finished; `text` says what is in work."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, detail=text)


class Reporter:
    """Says on stderr what a long job is doing. With `quiet`, says nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = Console(file=sys.stderr, highlight=False)

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """Run a step under a bar; when it ends well, print its title, note and seconds."""
        start = time.perf_counter()
        if self._quiet or not self._console.is_terminal:
            stage = Stage(None, None)
            yield stage
        else:
            columns = (
                TextColumn("{task.description:<9}"),
                BarColumn(bar_width=30),
                TaskProgressColumn(),  # empty while the end is not known
                TimeElapsedColumn(),
                TextColumn("{task.fields[detail]}", style="dim"),
            )
            with Progress(*columns, console=self._console, transient=True) as bar:
                stage = Stage(bar, bar.add_task(title, total=None, detail=""))
                yield stage
        if not self._quiet:
            seconds = time.perf_counter() - start
            self._console.print(f"{title:<9} {seconds:7.2f} s  {stage.note}", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one line."""
        if not self._quiet:
            self._console.print(text, markup=False, soft_wrap=True)

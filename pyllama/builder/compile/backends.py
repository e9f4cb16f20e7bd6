"""The table of backends: what each needs to be compiled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tomlkit

from ...errors import UsageError


@dataclass(frozen=True)
class Backend:
    """One row of `backends.toml`."""

    name: str
    title: str
    target: str
    library: str
    options: tuple[tuple[str, str], ...]


@cache
def table() -> dict[str, Backend]:
    """Return every backend that can be built, by name."""
    text = (Path(__file__).parent / "backends.toml").read_text(encoding="utf-8")
    return {
        name: Backend(
            name=name,
            title=row["title"],
            target=row["target"],
            library=row["library"],
            options=tuple(sorted(row["options"].items())),
        )
        for name, row in tomlkit.parse(text).unwrap().items()
    }


def select(names: list[str]) -> tuple[Backend, ...]:
    """Return the rows for `names`; the CPU is always among them, and first."""
    rows = table()
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise UsageError(f"no backend is called {unknown[0]!r}: choose from {', '.join(rows)}")
    wanted = {"cpu", *names}
    return tuple(row for name, row in rows.items() if name in wanted)

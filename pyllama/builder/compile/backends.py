"""The table of backends: what each needs to be compiled, where it can be, and what it runs on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tomlkit

from ...errors import UsageError
from . import supplies

AUTO = "auto"
_LISTS = ("systems", "detect", "environment", "places")


@dataclass(frozen=True)
class Need:
    """Something that must be there to compile a backend."""

    kind: str
    """`program`, `header`, `library`, `flag`, `cuda` or `hip`."""
    name: str
    get: tuple[tuple[str, str], ...]
    """How to get it, by `apt`, `brew`, an `extra` of ours, or from a vendor's `page`."""
    macro: str = ""
    """What a header must define to be recent enough."""
    supply: str = ""
    """The row of `supplies.toml` that we fetch where the system has none or an old one."""


@dataclass(frozen=True)
class Backend:
    """One row of `backends.toml`, where the columns are explained."""

    name: str
    title: str
    kind: str
    target: str
    library: str
    options: tuple[tuple[str, str], ...]
    device: str
    systems: tuple[str, ...] = ()
    detect: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    runs_with: tuple[tuple[str, str], ...] = ()
    environment: tuple[str, ...] = ()
    places: tuple[str, ...] = ()

    @property
    def decides(self) -> dict[str, object]:
        """What of the row decides how a build turns out: part of its key; advice is not."""
        supplied = [supplies.table()[need.supply].sha256 for need in self.needs if need.supply]
        return {
            "name": self.name,
            "target": self.target,
            "library": self.library,
            "options": self.options,
            "supplied": supplied,
        }

    @property
    def builds_here(self) -> bool:
        """Whether it exists for this operating system at all."""
        return not self.systems or sys.platform in self.systems

    @property
    def detected(self) -> bool:
        """Whether this machine looks like it has such a device."""
        return self.builds_here and any(_exists(pattern) for pattern in self.detect)


@cache
def table() -> dict[str, Backend]:
    """Return every backend, by name, in the order of the file."""
    text = (Path(__file__).parent / "backends.toml").read_text(encoding="utf-8")
    return {name: _row(name, row) for name, row in tomlkit.parse(text).unwrap().items()}


def _row(name: str, row: dict[str, Any]) -> Backend:
    pairs: dict[str, Any] = {key: tuple(sorted(row.pop(key, {}).items())) for key in ("options", "runs_with")}
    needs = tuple(
        Need(**{**need, "get": tuple(sorted(need.get("get", {}).items()))}) for need in row.pop("needs", ())
    )
    lists: dict[str, Any] = {key: tuple(row.pop(key, ())) for key in _LISTS}
    return Backend(name=name, needs=needs, **pairs, **lists, **row)


def select(names: list[str]) -> tuple[Backend, ...]:
    """Return the rows for `names`, in the order of the table; a CPU is always among them, and first.

    `auto` stands for what `detect` finds. Raises UsageError for an unknown backend, for one that
    this system cannot have, and for two kinds of CPU at once.
    """
    rows = table()
    wanted = {name for name in names if name != AUTO}
    unknown = sorted(wanted - set(rows))
    if unknown:
        raise UsageError(f"no backend is called {unknown[0]!r}: choose from {AUTO}, {', '.join(rows)}")
    elsewhere = next((rows[name] for name in sorted(wanted) if not rows[name].builds_here), None)
    if elsewhere:
        raise UsageError(
            f"{elsewhere.name} ({elsewhere.title}) cannot be built here: it is for "
            f"{', '.join(elsewhere.systems)}"
        )
    if AUTO in names:
        wanted |= {row.name for row in rows.values() if row.detected}
    cpus = [name for name, row in rows.items() if row.kind == "cpu" and name in wanted]
    if len(cpus) > 1:
        raise UsageError(f"{' and '.join(cpus)} exclude each other: name one of them")
    wanted.update(cpus or ["cpu"])
    return tuple(row for name, row in rows.items() if name in wanted)


def _exists(pattern: str) -> bool:
    path = Path(pattern)
    return any(path.parent.glob(path.name)) if "*" in path.name else path.exists()

"""The C API of a build as its bindings have it, read in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import BuildError
from ..stack.features import Feature

_ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Interface:
    """Functions with their types, constants with their values, types with their layout."""

    functions: dict[str, str]
    missing: frozenset[str]
    """Functions that are declared and that no library of the build has."""
    constants: dict[str, Any]
    types: dict[str, Any]


def read(build: Path) -> Interface:
    """Load a finished build in another process and return what `pyllama.lib` has. Raises BuildError."""
    path = os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH", "")) if part)
    done = subprocess.run(
        [sys.executable, "-m", "pyllama.native.interface"],
        env={**os.environ, "PYLLAMA_BUILD": str(build), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BuildError(f"the build {build} can't be loaded: {reason}")
    table = json.loads(done.stdout)
    return Interface(table["functions"], frozenset(table["missing"]), table["constants"], table["types"])


def faults(feature: Feature, interface: Interface) -> Iterator[str]:
    """Say what of a feature's contract `pyllama.lib` lacks."""
    for symbol in feature.contract.symbols:
        if symbol.name not in interface.functions or symbol.name in interface.missing:
            yield f"pyllama.lib has no {symbol.name}"
    for macro in feature.contract.macros:
        if macro not in interface.constants:
            yield f"pyllama.lib has no {macro}"


def changes(stock: Interface, patched: Interface) -> Iterator[str]:
    """Say what code that was compiled against `stock` would not find unchanged in `patched`."""
    pairs: Sequence[tuple[str, dict[str, Any], dict[str, Any]]] = (
        ("function", stock.functions, patched.functions),
        ("constant", stock.constants, patched.constants),
        ("type", stock.types, patched.types),
    )
    for kind, before, after in pairs:
        for name, value in before.items():
            if name not in after:
                yield f"the {kind} {name} is gone"
            elif not _same(value, after[name]):
                yield f"the {kind} {name} {_difference(value, after[name])}"
    for name in sorted(patched.missing - stock.missing):
        if name in stock.functions:
            yield f"the function {name} is in no library any more"


def _same(before: Any, after: Any) -> bool:
    """Compare; an enum may have got more names, as long as the old ones keep their values."""
    if isinstance(before, dict) and before.get("kind") == "enum" and isinstance(after, dict):
        held = after.get("values", {})
        return {**after, "values": 0} == {**before, "values": 0} and all(
            held.get(name) == number for name, number in before["values"].items()
        )
    return bool(before == after)


def _difference(before: Any, after: Any) -> str:
    """Say in which way a type, a value or a layout is another one."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return f"was {before} and is {after}"
    found = [
        f"has the {key} {after.get(key)} instead of {before.get(key)}"
        for key in ("kind", "name", "size")
        if before.get(key) != after.get(key)
    ]
    old = {field[0]: field[1:] for field in before.get("fields", ())}
    new = {field[0]: field[1:] for field in after.get("fields", ())}
    old |= before.get("values", {})
    new |= after.get("values", {})
    found += [f"lost {name}" for name in old if name not in new]
    found += [f"got {name}" for name in new if name not in old]
    found += [f"changed {name}" for name in old if name in new and old[name] != new[name]]
    return ", ".join(found) or "changed the order of its fields"


def additions(stock: Interface, patched: Interface) -> tuple[str, ...]:
    """Return the names of functions, constants and types that only `patched` has."""
    pairs = (
        (stock.functions, patched.functions),
        (stock.constants, patched.constants),
        (stock.types, patched.types),
    )
    return tuple(sorted({name for before, after in pairs for name in after if name not in before}))

"""What this machine can build and run, and the notes that docs/matrix.md is made of: fixtures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_builds import TestBuild, make_build

from pyllama.builder.compile import backends, needs
from pyllama.builder.compile.toolchain import find_compilers

Notes = dict[str, dict[str, str]]


@pytest.fixture(scope="session")
def notes(pin: str | None, machine_build: TestBuild) -> Iterator[Notes]:
    """What was seen of each backend; written when all have run."""
    found: Notes = {name: {} for name in backends.table()}
    yield found
    folder = Path(__file__).resolve().parents[2] / "build" / "matrix"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{machine_build.pin}.json").write_text(json.dumps(found, indent=1) + "\n")


@pytest.fixture(scope="session")
def lacking() -> dict[str, str]:
    """Why a backend is not built here; those that are built are not in it."""
    compilers, reasons = find_compilers(), {}
    for row in backends.table().values():
        if not row.builds_here:
            reasons[row.name] = f"for {', '.join(row.systems)}"
        elif row.name == "cuda":
            reasons[row.name] = "takes 8 to 17 minutes: `nox -s cuda`"
        elif row.name == "cpu-all":
            reasons[row.name] = "with the wheels: `nox -s wheel`"
        else:
            missing = needs.missing(row, compilers)
            if missing:
                reasons[row.name] = "needs " + ", ".join(lack.need.name for lack in missing)
    return reasons


@pytest.fixture(scope="session")
def machine_build(pin: str | None, lacking: dict[str, str]) -> TestBuild:
    """The pin with every feature and every backend that can be built here."""
    chosen = [name for name in backends.table() if name not in lacking]
    return make_build(pin, "all", backends=chosen)


@pytest.fixture(scope="session")
def environment(machine_build: TestBuild) -> dict[str, str]:
    """Lavapipe is a device, and processes use the build with all backends."""
    return {"PYLLAMA_BUILD": str(machine_build.folder), "GGML_VK_VISIBLE_DEVICES": "0"}


@pytest.fixture(scope="session")
def states(command_line: Any, environment: dict[str, str]) -> dict[str, dict[str, Any]]:
    ran = command_line("devices", "--explain", "--json", **environment)
    assert ran.returncode == 0, ran.stderr
    return {row["backend"]: row for row in json.loads(ran.stdout)}

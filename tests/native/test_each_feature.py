"""Every feature on every backend that this machine can build: a column of docs/matrix.md each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_builds import TestBuild
from rpc_servers import servers
from tiny_models import TinyModels

import pyllama
from pyllama.builder import project
from pyllama.builder.compile import backends
from pyllama.builder.paths import locate

from .each_feature import KINDS
from .machine import Notes

pytestmark = pytest.mark.backends

CHILD = Path(__file__).parent / "each_feature.py"
Tried = Callable[[str, str, "list[str] | None"], str]


@pytest.fixture(scope="session")
def there(machine_build: TestBuild) -> set[str]:
    """The features that are hooks at this pin."""
    opened = project.load(locate())
    chosen = opened.select(opened.pin(machine_build.pin), "all")
    return {one.name for one in chosen if one.at(machine_build.pin).kind == "hooks"}


@pytest.fixture(scope="session")
def tried(
    environment: dict[str, str],
    tiny_model: TinyModels,
    there: set[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Tried:
    """`tried(feature, backend, devices)`: what was seen; the CPU's logits are kept to compare with."""
    folder = tmp_path_factory.mktemp("logits")

    def run(feature: str, backend: str, devices: list[str] | None) -> str:
        if feature not in there:
            pytest.skip(f"{feature} is no hook at this pin")
        cpu = folder / f"{feature}.npy"
        if devices != ["CPU"] and not cpu.exists():
            run(feature, "cpu", ["CPU"])
        root = str(Path(pyllama.__file__).parents[1])
        words = {"PYTHONPATH": root, "PYLLAMA_BACKENDS": backend, "OMP_WAIT_POLICY": "passive"}
        command = [sys.executable, str(CHILD), feature, json.dumps(devices), tiny_model(KINDS[feature]), cpu]
        done = subprocess.run(
            list(map(str, command)),
            env={**os.environ, **environment, **words},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr[-4000:]}"
        return done.stdout.strip()

    return run


@pytest.mark.parametrize("feature", KINDS)
@pytest.mark.parametrize("backend", [row.name for row in backends.table().values() if row.name != "rpc"])
def test_on_its_device(
    backend: str, feature: str, states: dict[str, Any], tried: Tried, notes: Notes
) -> None:
    state = states[backend]
    if state["state"] != "used":
        pytest.skip(f"{backend} is {state['state']} here: {state['advice']}")
    kind = backends.table()[backend].kind
    devices = list(state["devices"]) if kind == "gpu" else ["CPU"] if backend == "cpu" else None
    notes[backend][feature] = tried(feature, backend, devices)


@pytest.mark.parametrize("feature", KINDS)
def test_on_a_server(
    feature: str, states: dict[str, Any], machine_build: TestBuild, tried: Tried, notes: Notes
) -> None:
    if states["rpc"]["state"] not in ("used", "no device"):
        pytest.skip(states["rpc"]["advice"])
    with servers(machine_build, 1) as (server,):
        notes["rpc"][feature] = tried(feature, "rpc", [server.endpoint])

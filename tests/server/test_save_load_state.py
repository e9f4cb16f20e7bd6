"""Upstream's own program for saving and loading states passes, with the check for states on the device."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from native.conftest import SRC, Compile, Run
from native.conftest import run_native as run_native
from native.loopback import RemoteLoopback
from real_builds import make_build

pytestmark = [pytest.mark.matrix, pytest.mark.server]


@pytest.fixture(scope="session")
def save_load_state(pin: str | None, compile_native: Compile) -> Path:
    """The program: an example at the older pins, a test of upstream's at the newest."""
    if pin in ("2025-08", "2026-05"):
        build = make_build(pin, "all", "llama-save-load-state")
        return build.folder / "bin" / "llama-save-load-state"
    build = make_build(pin, "all", "llama-common")  # without upstream's tests, of which this is one
    source = os.path.relpath(build.tree / "tests/test-save-load-state.cpp", SRC)
    flags = [f"-I{build.tree / name}" for name in ("common", "vendor")]
    return compile_native(build, source, libs=("llama-common", "llama", "ggml", "ggml-base"), flags=flags)


@pytest.mark.parametrize("device", ["CPU", "Loopback0"])
def test_upstream_program_passes(
    save_load_state: Path,
    run_native: Run,
    loopback_plugin: Path,
    test_model: Path,
    tmp_path: Path,
    device: str,
) -> None:
    remote = RemoteLoopback(loopback_plugin, tmp_path / "loopback")
    where = ["--device", device, "-ngl", "99"] if device != "CPU" else ["-ngl", "0"]
    # copies one by one, which are counted: a graph of them would be a computation like others
    loopback = {**remote.env, "LLAMA_STATE_COPY": "async", "OMP_WAIT_POLICY": "passive"}
    env = loopback if device != "CPU" else {}
    done = run_native(save_load_state, "-m", test_model, "-n", 16, *where, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    held = re.search(r"device state: success, (\d+) bytes stayed on the device", done.stdout)
    assert held and int(held[1]) > 0
    if device != "CPU":
        assert remote.stats().computes > 0 and remote.stats().copy_bytes >= 2 * int(held[1])

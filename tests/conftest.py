"""What all tests share: finished builds, the real model, and a way to run the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from native.conftest import compile_native as compile_native
from native.loopback import loopback as loopback
from native.loopback import loopback_child as loopback_child
from native.loopback import loopback_plugin as loopback_plugin
from native.machine import environment as environment
from native.machine import lacking as lacking
from native.machine import machine_build as machine_build
from native.machine import notes as notes
from native.machine import states as states
from real_builds import TestBuild, make_build
from tiny_models import TinyModels

import pyllama
from pyllama.builder.fetch.models import default_model
from pyllama.builder.paths import Paths, locate
from pyllama.builder.pins import Lock, load
from pyllama.builder.progress import Reporter

# Who runs the tests in the background may have them ignore Ctrl-C, and children would too.
signal.signal(signal.SIGINT, signal.default_int_handler)

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
Child = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def pin() -> str | None:
    """The pin under test: the default one, or what the session `matrix` names."""
    return os.environ.get("PYLLAMA_TEST_PIN") or None


@pytest.fixture(scope="session")
def patched_build(pin: str | None) -> TestBuild:
    """The pin with every feature."""
    return make_build(pin, "all", "llama-simple")


@pytest.fixture(scope="session")
def stock_build(pin: str | None) -> TestBuild:
    """The pin without any."""
    return make_build(pin, "none")


@pytest.fixture(scope="session")
def installed_paths() -> Paths:
    """The folders of the pyllama under test."""
    return locate()


@pytest.fixture(scope="session")
def lock(installed_paths: Paths) -> Lock:
    """The project's own lock."""
    return load(installed_paths.pins)


@pytest.fixture(scope="session")
def test_model(lock: Lock, installed_paths: Paths) -> Path:
    """SmolLM2-135M-Instruct, a real model of 98 MB."""
    return default_model(lock, installed_paths, Reporter(quiet=True))


@pytest.fixture(scope="session")
def tiny_model(pin: str | None, lock: Lock, tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """`tiny_model("mamba2")` is the path of a tiny model of that kind; tests/tiny_models.py lists them."""
    return TinyModels(lock.pin(pin).name, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def command_line() -> CommandLine:
    """Run `pyllama ARGS…` in a process of its own."""

    def run(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pyllama", *map(str, args)],
            capture_output=True,
            text=True,
            env={**os.environ, **env},
            timeout=600,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def child(patched_build: TestBuild, test_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Child:
    """`child(code, *args)` runs Python with the build of the pin under test.

    The snippet finds `pyllama`, `json`, `sys` and `MODEL`. `check=False` allows any exit code.
    """
    folder = tmp_path_factory.mktemp("child")

    def run(code: str, *args: str | Path, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        words = {
            **os.environ,
            "PYLLAMA_BUILD": str(patched_build.folder),
            "PYTHONPATH": str(Path(pyllama.__file__).parents[1]),
            "GGML_NO_BACKTRACE": "1",
            **env,
        }
        done = subprocess.run(
            [sys.executable, "-c", f"import json, sys, pyllama\nMODEL = {str(test_model)!r}\n{code}"]
            + [str(arg) for arg in args],
            capture_output=True,
            text=True,
            env=words,
            cwd=folder,
            timeout=600,
            check=False,
        )
        assert not check or done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    return run

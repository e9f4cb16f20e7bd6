"""The model in this process, and Python snippets in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyllama

# Other processes may need the cores. Read when the OpenMP library is loaded; children inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

Child = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def model(test_model: Path) -> Iterator[pyllama.Model]:
    """The real model, in this process, with the build that is installed."""
    with pyllama.Model(test_model) as opened:
        yield opened


@pytest.fixture(scope="session")
def child(patched_build: Any, test_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Child:
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
            timeout=300,
        )
        assert not check or done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    return run

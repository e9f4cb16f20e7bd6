"""Wrong arguments and missing tools: one sentence on stderr, exit code 2 or 1, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyllama


def _clear(done: Any, code: int) -> str:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = str(done.stderr).splitlines()[-1]
    assert "error: " in last
    return last


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["build", "--pin", "nope"], ["'nope'", "2025-08", "2026-05", "2026-10"]),
        (["build", "--features", "nope"], ["'nope'", "view-copy", "self-locating"]),
        (["build", "--features", "view-copy,nope"], ["'nope'"]),
        (["build", "--backend", "nope"], ["'nope'", "cpu"]),
        (["build", "--flavour", "nope"], ["'nope'", "release"]),
        (["fetch", "nope"], ["'nope'", "2026-10"]),
        (["patches", "apply", "--pin", "nope"], ["'nope'"]),
        (["patches", "status", "--features", "nope"], ["'nope'"]),
    ],
)
def test_unknown_names(args: list[str], words: list[str], command_line: Any) -> None:
    done = command_line(*args)
    message = _clear(done, 2)
    assert done.stderr.count("\n") == 1
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nope"],
        ["run", "--nope"],
        ["run", "-n", "x"],
        ["info", "--json", "--libs"],
        ["build", "--all", "--none"],
    ],
)
def test_wrong_arguments(args: list[str], command_line: Any) -> None:
    assert "pyllama" in _clear(command_line(*args), 2)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-n", "-1"], "-n -1"),
        (["--temp", "-1"], "temperature=-1.0"),
        (["--temp", "nan"], "temperature=nan"),
        (["--seed", "-1"], "seed=-1"),
        (["--seed", str(2**32)], f"seed={2**32}"),
    ],
)
def test_values_out_of_range(args: list[str], words: str, command_line: Any, test_model: Path) -> None:
    assert words in _clear(command_line("run", "-m", test_model, *args), 2)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--threads", "-1"], "threads=-1"),
        (["--threads", str(2**40)], f"threads={2**40}"),
        (["-p", ""], "no tokens"),
    ],
)
def test_values_that_no_context_takes(
    args: list[str], words: str, command_line: Any, test_model: Path
) -> None:
    done = command_line("run", "-m", test_model, *args)
    assert words in _clear(done, 1) and done.stderr.count("\n") == 1


def test_huge_numbers_that_mean_all(command_line: Any, test_model: Path) -> None:
    done = command_line("run", "-m", test_model, "--gpu-layers", str(2**40), "-n", "1")
    assert done.returncode == 0, done.stderr


def test_missing_compiler(command_line: Any, tmp_path: Path) -> None:
    done = command_line("build", PATH=str(tmp_path), CC="", CXX="")
    assert "build-essential" in _clear(done, 1)
    done = command_line("build", CC="no-such-compiler")
    assert "CC=no-such-compiler" in _clear(done, 1)


def test_no_build(command_line: Any, tmp_path: Path) -> None:
    for command in ("info", "devices", "run"):
        done = command_line(command, PYLLAMA_BUILD=str(tmp_path))
        assert f"PYLLAMA_BUILD={tmp_path} is not a finished build" in _clear(done, 1)


def test_help_and_version(command_line: Any) -> None:
    told = command_line("--help")
    assert told.returncode == 0 and told.stderr == ""
    for command in ("pins", "fetch", "patches", "build", "info", "devices", "run"):
        assert command in told.stdout
        assert command_line(command, "--help").returncode == 0
    assert command_line("--version").stdout == f"pyllama {pyllama.__version__}\n"


def test_the_command_is_installed() -> None:
    """The script, where there is one, is the same program as `python -m pyllama`."""
    script = Path(sys.executable).parent / "pyllama"
    if not script.exists():
        pytest.skip("not installed, only imported")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"pyllama {pyllama.__version__}\n"

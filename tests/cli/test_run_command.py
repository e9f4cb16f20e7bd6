"""`pyllama run` as a user meets it: output, interruption, a reader that goes away, bad files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyllama

COMMAND = [sys.executable, "-m", "pyllama"]


def _environment(**env: str) -> dict[str, str]:
    root = str(Path(pyllama.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root, "OMP_WAIT_POLICY": "passive", **env}


def _start(*args: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    words = [*COMMAND, *map(str, args)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, env=_environment(), **options)


def test_text_and_json_agree(command_line: Any, test_model: Path) -> None:
    args = ("run", "-m", test_model, "-p", "The sky is", "-n", "8", "--seed", "3", "--temp", "0.9")
    text, told = command_line(*args), command_line(*args, "--json")
    assert text.returncode == told.returncode == 0
    assert text.stderr == told.stderr == ""
    found = json.loads(told.stdout)
    assert text.stdout == "The sky is" + found["text"] + "\n"
    assert found["prompt"] == "The sky is" and found["model"] == str(test_model)
    assert len(found["tokens"]) == 8 and found["finish_reason"] == "length"
    assert found["prompt_tokens"] == 3 and found["tokens_per_second"] > 0


def test_default_model(command_line: Any, test_model: Path) -> None:
    """`test_model` has put it into the cache."""
    told = command_line("run", "-p", "Hello", "-n", "2", "--temp", "0", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["model"] == str(test_model)
    assert told.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupt(test_model: Path) -> None:
    process = _start(
        *("run", "-m", test_model, "-p", "Once upon a time", "-n", "8000", "--temp", "0"),
        stdout=subprocess.PIPE,
        bufsize=0,
        # Python takes SIGINT only where it is not ignored, as it is behind `&`.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert len(process.stdout.read(16)) == 16
    assert process.stdout.read(8), "it is generating"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.strip() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="pipes")
@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_reader_that_goes_away(extra: list[str], test_model: Path) -> None:
    process = _start(
        *("run", "-m", test_model, "-p", "first line\nsecond", "-n", "200", "--temp", "0", *extra),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    if not extra:
        assert process.stdout.readline() == b"first line\n"
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(timeout=120) == 1
    assert stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("command", ["run", "info", "devices"])
def test_disk_that_is_full(command: str, test_model: Path) -> None:
    args = ["-m", str(test_model), "-n", "2"] if command == "run" else []
    with open("/dev/full", "wb") as full:
        process = _start(command, *args, stdout=full)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert stderr.decode().startswith("error: ") and stderr.count(b"\n") == 1


def test_terminal_that_cannot_show_the_text(command_line: Any, test_model: Path) -> None:
    done = command_line("run", "-m", test_model, "-p", "é 🐉", "-n", "1", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("? ?")


@pytest.mark.skipif(sys.platform == "win32", reason="arguments are text there")
def test_prompt_that_is_no_utf8(test_model: Path) -> None:
    command: list[Any] = [*COMMAND, "run", "-m", str(test_model), "-n", "1", "-p", b"a\xffb"]
    done = subprocess.run(command, capture_output=True, env=_environment(), timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")


def test_closed_stdout(test_model: Path) -> None:
    code = "import os, sys; os.close(1); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", code, *COMMAND, "run", "-m", str(test_model), "-n", "1"]
    done = subprocess.run(command, stderr=subprocess.PIPE, env=_environment(), timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.gguf", b"", "is empty"),
        ("text.gguf", b"I am no model\n", "is not a GGUF file"),
        ("cut.gguf", b"GGUF\x03\0\0\0", "cannot be loaded"),
        ("folder.gguf", None, "is a directory"),
        ("missing.gguf", None, "does not exist"),
    ],
)
def test_bad_model(name: str, data: bytes | None, words: str, command_line: Any, tmp_path: Path) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    elif name.startswith("folder"):
        path.mkdir()
    done = command_line("run", "-m", path, "-n", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {path} {words}") and done.stderr.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_model_that_may_not_be_read(command_line: Any, tmp_path: Path) -> None:
    path = tmp_path / "secret.gguf"
    path.write_bytes(b"GGUF")
    path.chmod(0)
    done = command_line("run", "-m", path)
    assert done.returncode == 1 and f"{path} cannot be read" in done.stderr


@pytest.mark.parametrize("option", ["--device", "--rpc"])
def test_a_list_of_nothing(option: str, command_line: Any, test_model: Path) -> None:
    """As a variable that is not set gives: not what was asked for."""
    ran = command_line("run", "-m", test_model, "-n", "1", option, " ,")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"error: {option} ' ,' names nothing: ") and ran.stderr.count("\n") == 1

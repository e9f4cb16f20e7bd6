"""examples/speculative.py, as one types it: the tokens of plain decoding, and what the report says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyllama

pytestmark = pytest.mark.matrix

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "speculative.py"
PROMPT = "abab"
PHASES = ("prompt", "draft", "verify", "save", "restore", "reread", "other")
PLAIN = """
with pyllama.Model(sys.argv[1]) as model:
    done = pyllama.generate(model, sys.argv[2], max_tokens=96, temperature=0)
print(json.dumps(done.tokens))
"""
ON_DEVICE = """
import contextlib, io, runpy
sys.path.insert(0, sys.argv[1])
found = {}
for where in ("device", "host"):
    sys.argv = ["x", MODEL_PATH, "-p", "abab", "-n", "96", "--json", "--checkpoints", where]
    before, told = loopback.stats(), io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(told):
        runpy.run_path(SCRIPT, run_name="__main__")
    stats = loopback.stats()
    found[where] = {
        **json.loads(told.getvalue()),
        "to_host": stats.bytes_to_host - before.bytes_to_host,
        "to_device": stats.bytes_to_device - before.bytes_to_device,
    }
print(json.dumps(found))
"""
Example = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def example(patched_build: Any) -> Example:
    """Run the script with the build of the pin under test."""
    env = {
        **os.environ,
        "PYLLAMA_BUILD": str(patched_build.folder),
        "PYTHONPATH": str(Path(pyllama.__file__).parents[1]),
        "OMP_WAIT_POLICY": "passive",
    }

    def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, check=False)

    return run


def found_by(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert tuple(found["phases"]) == PHASES
    assert found["rounds"] == found["phases"]["verify"][1]
    assert abs(sum(seconds for seconds, _ in found["phases"].values()) - found["seconds"]) < 1e-6
    return found


@pytest.mark.parametrize("where", ["device", "host", "none"])
@pytest.mark.parametrize("kind", ["hybrid", "mamba2", "attention"])
def test_the_tokens_of_plain_decoding(
    example: Example, child: Any, tiny_model: Callable[[str], Path], kind: str, where: str
) -> None:
    path = tiny_model(kind)
    found = found_by(example(path, "-p", PROMPT, "-n", "96", "--checkpoints", where, "--json"))
    assert found["tokens"] == json.loads(child(PLAIN, path, PROMPT).stdout)
    assert 0 < found["accepted"] < found["drafted"]
    calls = {name: n for name, (_, n) in found["phases"].items()}
    saves = kind != "attention" and where != "none"
    assert (calls["save"] > 0) == (found["checkpoint_bytes"] > 0) == saves
    assert 0 < calls["restore"] <= found["rounds"] and calls["reread"] <= calls["restore"]
    assert (calls["reread"] > 0) == (kind != "attention")


@pytest.mark.parametrize("where", ["device", "none"])
@pytest.mark.parametrize("drafts", ["hybrid", "mamba2", "attention"])
@pytest.mark.parametrize("kind", ["hybrid", "attention"])
def test_a_model_that_drafts(
    example: Example, child: Any, tiny_model: Callable[[str], Path], kind: str, drafts: str, where: str
) -> None:
    path = tiny_model(kind)
    args = ("--draft-model", tiny_model(drafts), "-n", "96", "--checkpoints", where, "--draft", "5")
    found = found_by(example(path, "-p", PROMPT, *args, "--json"))
    assert found["tokens"] == json.loads(child(PLAIN, path, PROMPT).stdout)
    if kind == drafts:  # as good as it gets: rewound wrongly, it would draft something else
        assert found["accepted"] == found["drafted"] and found["rounds"] <= 96 // 6 + 1
    else:
        assert found["accepted"] < found["drafted"] and found["phases"]["restore"][1] > 0


def test_the_report(example: Example, tiny_model: Callable[[str], Path]) -> None:
    path = tiny_model("hybrid")
    done = example(path, "-p", PROMPT, "-n", "40", "--check")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(\w+) +(\d+\.\d\d) +(\d+\.\d) +(\d+)$", done.stdout, re.MULTILINE)
    assert [row[0] for row in rows] == [*PHASES, "total"]
    assert abs(sum(float(row[2]) for row in rows[:-1]) - 100) < 1
    assert re.search(r"^\d+ of \d+ drafted tokens accepted$", done.stdout, re.MULTILINE)
    assert re.search(r"^40 tokens in \d+ rounds$", done.stdout, re.MULTILINE)
    assert re.search(r"^checkpoint: [1-9]\d* bytes$", done.stdout, re.MULTILINE)
    assert re.search(r"^plain decoding: .* ms, the same tokens$", done.stdout, re.MULTILINE)


def test_device_checkpoints_stay_there(loopback_child: Any, tiny_model: Callable[[str], Path]) -> None:
    """What crosses with checkpoints on the host is at least what was saved and restored."""
    names = f"SCRIPT, MODEL_PATH = {str(SCRIPT)!r}, {str(tiny_model('mamba2'))!r}\n"
    found = json.loads(loopback_child(names + ON_DEVICE, SCRIPT.parent).stdout.splitlines()[-1])
    device, host = found["device"], found["host"]
    assert device["tokens"] == host["tokens"] and len(host["tokens"]) == 96
    size = host["checkpoint_bytes"]
    assert host["to_host"] - device["to_host"] >= host["phases"]["save"][1] * size > 0
    assert host["to_device"] - device["to_device"] >= host["phases"]["restore"][1] * size > 0


def test_wrong_use(example: Example, tiny_model: Callable[[str], Path], test_model: Path) -> None:
    path = tiny_model("attention")
    for words, code, said in (
        ((path, "--draft", "0"), 2, "--draft has to be 1 to 64"),
        ((path, "--draft", "65"), 2, "--draft has to be 1 to 64"),
        ((path, "-n", "0"), 2, "--max-tokens at least 1"),
        ((path, "--checkpoints", "moon"), 2, "invalid choice: 'moon'"),
        ((), 2, "model"),
        ((path, "--draft-model", test_model), 2, "another vocabulary"),
        (("missing.gguf",), 1, "does not exist"),
        ((SCRIPT,), 1, "not a GGUF file"),
    ):
        done = example(*words)
        assert (done.returncode, done.stdout) == (code, ""), words
        assert said in done.stderr and "Traceback" not in done.stderr

"""Every architecture that `gguf` can write, each in a process of its own: fewer layers, and fewer experts.

A context that stops after n layers gives to the bit what a model cut to n layers does, or is refused; one
that takes n experts gives what a model that takes so many does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from arch_models import USED, names
from real_builds import TestBuild

import pyllama

pytestmark = pytest.mark.matrix

TESTS = Path(__file__).parents[1]

# Refused when the context is made, and why (patches/layer-exit/files/src/llama-layer-exit.cpp).
REFUSED = {
    "gemma3n": "per-layer embeddings",
    "gemma4": "per-layer embeddings",
    "minicpm3": "scales each layer",
    "smallthinker": "which layers are rotated",
    "t5": "an encoder and a decoder",
    "wavtokenizer-dec": "does not go through them",
}
# What `arch_models` does not write a model of that llama.cpp can run, at one pin at least.
UNWRITTEN = {"baichuan", "chameleon", "glm-dsa", "plamo2", "plm", "wavtokenizer-dec"}


@dataclass(frozen=True)
class Outcome:
    """What `arch_child.py` found: rows of JSON, and the last thing it said."""

    rows: list[dict[str, Any]]
    last: str
    code: int
    words: str

    def of(self, kind: str) -> dict[int, dict[str, Any]]:
        """The rows of numbers of layers, or of experts, by the number."""
        return {row[kind]: row for row in self.rows if kind in row}


def look(build: TestBuild, name: str, folder: Path) -> Outcome:
    done = subprocess.run(
        [sys.executable, TESTS / "arch_child.py", name, folder],
        env={
            **os.environ,
            "PYLLAMA_BUILD": str(build.folder),
            "PYTHONPATH": os.pathsep.join((str(Path(pyllama.__file__).parents[1]), str(TESTS))),
            "GGML_NO_BACKTRACE": "1",
            "OMP_WAIT_POLICY": "passive",
        },
        capture_output=True,
        text=True,
        errors="replace",
        timeout=900,
        check=False,
    )
    lines = done.stdout.splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    return Outcome(rows, lines[-1], done.returncode, done.stderr[-800:])


@pytest.mark.parametrize("name", names())
def test_fewer_layers_and_fewer_experts(patched_build: TestBuild, tmp_path: Path, name: str) -> None:
    found = look(patched_build, name, tmp_path)
    unknown = found.rows[0].get("unknown", "") if found.rows else f"{found.last}: {found.words}"
    if "model architecture" in unknown:
        pytest.skip(f"{patched_build.pin} has no {name}")
    if name in UNWRITTEN and (unknown or found.last.startswith("all ")):
        pytest.skip(f"no model of {name} could be written")
    assert not unknown
    assert found.code == 0, f"{found.last}: {found.words}"
    whole, layers, experts = found.rows[0], found.of("layers"), found.of("experts")
    assert whole["finite"] and (whole["spread"] > 0.1 or name in REFUSED)
    assert len(layers) == whole["of"] - 1 and len(experts) in (0, USED - 1)
    if name in REFUSED:
        assert all(REFUSED[name] in row["refused"] for row in layers.values()), layers
    else:
        # Where only recurrent layers are left, or only such as see a window, upstream cannot run the model
        # that is cut: a context that stops there has nothing to be compared with.
        assert all(row.get("same") or row.get("alone") for row in layers.values()), layers
        assert any(row.get("same") for row in layers.values()), layers
    assert all(row.get("same") for row in experts.values()), experts

"""Feature kv-blocks: random walks beside a context that is not paged; see tests/kv_walk.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import TinyModels

pytestmark = [
    pytest.mark.matrix,
    pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which pages are there"),
]

STEPS = 400
CODE = f"""
sys.path.append({str(Path(__file__).parents[1])!r})
import kv_walk
shape = kv_walk.Shape(**json.loads(sys.argv[2]))
print(json.dumps(kv_walk.walk(sys.argv[1], shape, seed=int(sys.argv[3]), steps={STEPS})))
"""
Child = Callable[..., Any]


def go(child: Child, model: Path, seed: int = 1, **shape: Any) -> dict[str, int]:
    """One walk in a process of its own; how often each thing was done."""
    found: dict[str, int] = json.loads(child(CODE, model, json.dumps(shape), str(seed)).stdout)
    for name in ("decoded", "removed", "shared", "restored", "restored by file", "restored on the device"):
        assert found.get(name, 0) > 0, f"{name}: never in {STEPS} steps: {found}"
    return found


@pytest.mark.parametrize("fa", [True, False], ids=["flash", "no-flash"])
@pytest.mark.parametrize("unified", [True, False], ids=["unified", "streams"])
@pytest.mark.parametrize("kind", ["attention", "swa", "hybrid", "hybrid-swa"])
def test_walk(child: Child, tiny_model: TinyModels, kind: str, unified: bool, fa: bool) -> None:
    """Every memory that has attention; streams of 512 cells, so that windows have fewer than the rest."""
    go(child, tiny_model(kind), unified=unified, flash=fa, size=512)


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("unified", [True, False], ids=["unified", "streams"])
def test_walk_with_little_room(child: Child, tiny_model: TinyModels, unified: bool, seed: int) -> None:
    """It is full time and again: what is said to fit does, and nothing else."""
    found = go(child, tiny_model("attention"), seed, unified=unified, size=256)
    assert found["full"] > 0 and found["filled"] > 0


@pytest.mark.parametrize(
    "shape",
    [
        {"unified": False, "cap": 300},
        {"unified": True, "size": 512, "cap": 300},
        {"unified": True, "size": 768, "cap": 600, "flash": False},
    ],
    ids=str,
)
def test_walk_below_a_limit(child: Child, tiny_model: TinyModels, shape: dict[str, Any]) -> None:
    """A limit of tokens that is less than the cells there are."""
    assert go(child, tiny_model("attention"), **shape)["full"] > 0


@pytest.mark.parametrize("kind", ["swa", "hybrid"])
def test_walk_below_a_limit_of_others(child: Child, tiny_model: TinyModels, kind: str) -> None:
    go(child, tiny_model(kind), unified=True, size=512, cap=300)


@pytest.mark.parametrize(
    "shape",
    [
        {"unified": True, "size": 512, "block": 8},
        {"unified": False, "block": 256},
        {"unified": True, "size": 768, "block": 16, "type_kv": "Q8_0"},
        {"unified": False, "flash": False, "type_kv": "F32", "block": 64},
    ],
    ids=str,
)
def test_walk_in_other_blocks(child: Child, tiny_model: TinyModels, shape: dict[str, Any]) -> None:
    """Other blocks, and other types: a cell of Q8_0 is no power of two."""
    go(child, tiny_model("attention"), **shape)

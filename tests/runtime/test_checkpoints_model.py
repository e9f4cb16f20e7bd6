"""Feature checkpoints: random walks against a model of the sequences; see tests/checkpoint_walk.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import TinyModels

pytestmark = pytest.mark.matrix

CODE = f"""
sys.path.append({str(Path(__file__).parents[1])!r})
import checkpoint_walk
"""
WALK = """
unified, steps, exact = (int(word) for word in sys.argv[2:5])
found = checkpoint_walk.walk(sys.argv[1], loopback, unified=bool(unified), steps=steps, exact=bool(exact))
print(json.dumps({"checked": found.checked, "refused": found.refused}))
"""


@pytest.mark.parametrize(
    ("kind", "unified"),
    [
        ("attention", True),
        ("attention", False),
        ("swa", True),
        ("swa", False),
        ("mamba2", False),
        ("hybrid", True),
        ("hybrid", False),
    ],
)
def test_walk(
    loopback_child: Callable[..., Any], tiny_model: TinyModels, patched_build: Any, kind: str, unified: bool
) -> None:
    """64 live checkpoints of 8 sequences."""
    exact = not unified and patched_build.pin != "2025-08"  # which looks for the next cell elsewhere
    words = [str(int(word)) for word in (unified, 3000, exact)]
    done = loopback_child(CODE + WALK, tiny_model(kind), *words)
    assert patched_build.pin == "2025-08" or '"refused": 0' in done.stdout


@pytest.mark.parametrize("kind", ["attention", "hybrid"])
def test_limits(loopback_child: Callable[..., Any], tiny_model: TinyModels, kind: str) -> None:
    loopback_child(CODE + "checkpoint_walk.limits(sys.argv[1], loopback)", tiny_model(kind))

"""Feature device-state: devices that refuse, blobs that do not belong, cells that are shared or shifted.

Each case is a function of tests/state_faults.py or tests/state_moves.py, run in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import TinyModels

pytestmark = pytest.mark.matrix

TESTS = Path(__file__).parents[1]
CODE = f"""
sys.path.append({str(TESTS)!r})
import state_faults, state_moves
state_faults.run(sys.argv[1], loopback, sys.argv[2])
"""
ALL = ("attention", "swa", "mamba2", "hybrid")
CASES = {
    "memory_is_refused": ALL,
    "every_way_through_faults": ALL,
    "what_is_copied": ALL,
    "one_sequence": ("mamba2",),
    "two_devices": ("attention", "swa", "hybrid"),  # of mamba2 one device has both layers
    "waits": ALL,
    "no_room": ("attention", "hybrid"),
    "freeing": ALL,
    "an_empty_sequence": ALL,
    "after_clearing": ALL,
    "shared_cells": ALL,
    "copies_that_are_not_carried_out": ALL,
    "shifts_that_are_not_carried_out": ("attention",),
    "a_shift_that_fails": ("attention",),
    "only_what_cannot_be_rewound": ("swa", "hybrid"),
    "a_memory_without_cells": ("swa",),
}


@pytest.mark.parametrize(("case", "kind"), [(case, kind) for case, kinds in CASES.items() for kind in kinds])
def test_no_harm(
    loopback_child: Callable[..., Any], tiny_model: TinyModels, patched_build: Any, case: str, kind: str
) -> None:
    if patched_build.pin == "2025-08" and (case, kind) == ("only_what_cannot_be_rewound", "hybrid"):
        pytest.skip("hybrid memory saves all there")
    loopback_child(CODE, case, tiny_model(kind), devices=2 if case == "two_devices" else 1)


@pytest.mark.parametrize("kind", ALL)
def test_blobs_that_do_not_belong(
    loopback_child: Callable[..., Any], tiny_model: TinyModels, tmp_path: Path, kind: str
) -> None:
    other = "attention" if kind != "attention" else "hybrid"
    (tmp_path / "model.gguf").symlink_to(tiny_model(kind))
    (tmp_path / "other.gguf").symlink_to(tiny_model(other))
    loopback_child(CODE, "blobs_that_do_not_belong", tmp_path / "model.gguf")

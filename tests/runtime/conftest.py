"""The model in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyllama

# Other processes may need the cores. Read when the OpenMP library is loaded; children inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session")
def model(test_model: Path) -> Iterator[pyllama.Model]:
    """The real model, in this process, with the build that is installed."""
    with pyllama.Model(test_model) as opened:
        yield opened

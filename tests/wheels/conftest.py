"""What the wheels are made with is not of the package: it lies in packaging/."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from making import make

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "packaging"))


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels."""
    out = tmp_path_factory.mktemp("dist")
    make(out)
    return out

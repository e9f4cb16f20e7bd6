"""The server of the pin under test, which takes minutes to compile: the session `server` only."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_builds import TestBuild, make_build


@pytest.fixture(scope="session")
def server_build(pin: str | None) -> TestBuild:
    """The pin with every feature and upstream's server."""
    return make_build(pin, "all", "llama-server")


@pytest.fixture(scope="session")
def llama_server(server_build: TestBuild) -> Path:
    """Upstream's program."""
    return server_build.folder / "bin" / "llama-server"

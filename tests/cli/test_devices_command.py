"""`pyllama devices --explain`: each backend, and what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pyllama.builder.compile import backends

pytestmark = pytest.mark.matrix


def explained(command_line: Any, folder: Path, **env: str) -> dict[str, dict[str, Any]]:
    ran = command_line("devices", "--explain", "--json", PYLLAMA_BUILD=str(folder), **env)
    assert ran.returncode == 0, ran.stderr
    return {row["backend"]: row for row in json.loads(ran.stdout)}


def test_every_backend_is_explained(command_line: Any, patched_build: Any) -> None:
    told = explained(command_line, patched_build.folder)
    assert list(told) == list(backends.table())
    assert told["cpu"]["state"] == "used" and told["cpu"]["devices"] == ["CPU"]
    for name, row in told.items():
        assert row["title"] == backends.table()[name].title
        assert row["advice"] or row["state"] == "used", name
    here = [row for row in told.values() if row["state"] == "not built"]
    for row in here:
        assert row["advice"].startswith("pyllama build --pin ") and row["advice"].endswith(row["backend"])


def test_what_is_missing_is_named(command_line: Any, patched_build: Any, tmp_path: Path) -> None:
    """With a PATH on which there is a compiler and nothing else."""
    for name in ("cc", "c++", "as", "ld"):
        found = shutil.which(name)
        if found:
            (tmp_path / name).symlink_to(found)
    told = explained(command_line, patched_build.folder, PATH=str(tmp_path))
    assert told["vulkan"]["state"] == "cannot be built" and "glslc (" in told["vulkan"]["advice"]
    assert told["blas"]["state"] == "cannot be built" and "pkg-config (" in told["blas"]["advice"]


def test_in_words(command_line: Any, patched_build: Any) -> None:
    ran = command_line("devices", "--explain", PYLLAMA_BUILD=str(patched_build.folder))
    assert ran.returncode == 0 and "cpu      used (CPU): " in ran.stdout
    assert "not for this system" in ran.stdout

"""The command that gets an extra: of the installed distribution, else in the clone."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from pyllama import extras


def test_beside_an_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who has only the wheel has no clone to go to."""
    told = tmp_path / "pyllama_cffi-1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: pyllama-cffi\nVersion: 1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert extras.install("build") == "pip install 'pyllama-cffi[build]'"


def test_in_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index may have something else by that name."""

    def none(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", none)
    assert extras.install("sbom") == "pip install '.[sbom]' in the clone"

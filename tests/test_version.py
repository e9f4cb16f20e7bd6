"""Which version pyllama says it is."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
import tomlkit

import pyllama
from pyllama.version import _version

ROOT = Path(__file__).resolve().parents[1]


def test_it_is_that_of_the_distribution() -> None:
    """`pyproject.toml` alone sets it, so that a fork's own version is the one that is told."""
    try:
        expected = metadata.version("pyllama-cffi")
    except metadata.PackageNotFoundError:
        expected = str(tomlkit.parse((ROOT / "pyproject.toml").read_text()).unwrap()["project"]["version"])
    assert pyllama.__version__ == expected


def test_installed_or_a_checkout_or_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "x_of_acme-0.1.0+acme.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: x-of-acme\nVersion: 0.1.0+acme.3\n")
    assert _version("x-of-acme", tmp_path) == "0+unknown"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x-of-acme"\nversion = "0.1.0+acme.2"\n')
    assert _version("x-of-acme", tmp_path) == "0.1.0+acme.2"
    monkeypatch.syspath_prepend(tmp_path)
    assert _version("x-of-acme", tmp_path) == "0.1.0+acme.3"

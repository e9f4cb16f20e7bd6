"""How wheels are made, and what the session says: nothing is compiled here."""

from __future__ import annotations

import shutil
from pathlib import Path

from backend_wheels.project import TEMPLATE
from backend_wheels.wheels import Workshop, environment


def write_project(folder: Path) -> Path:
    """A project of a backend's wheel, as the template makes one."""
    package = folder / "one"
    package.mkdir(parents=True)
    shutil.copyfile(TEMPLATE / "__init__.py", package / "__init__.py")
    (folder / "README.md").write_text("One.\n")
    (folder / "LICENSE").write_text("None.\n")
    text = (TEMPLATE / "pyproject.toml").read_text(encoding="utf-8")
    text = text.replace("wheel.packages = []", 'wheel.packages = ["one"]')
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def test_pip_keeps_no_copy_of_a_wheel(tmp_path: Path) -> None:
    """The folder is called as those of the session are."""
    cache = tmp_path / "cache"
    made = Workshop(tmp_path, {**environment(0), "PIP_CACHE_DIR": str(cache)})
    wheel = made._wheel(write_project(tmp_path / "project-one"))
    assert wheel.is_file() and not list(cache.rglob("*.whl"))

"""What a user's type checker says: nothing about a right program, and each wrong line of one that is not.

pyllama lies in the site-packages of an environment of its own, as an installation leaves it: the package with
`py.typed` and the generated `lib.pyi`. None of this project's settings apply, and cffi carries no types.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyllama

HERE = Path(__file__).resolve().parent
PROJECT = HERE / "askbot"
WRONG = HERE / "wrong.py"

pytestmark = pytest.mark.matrix


@pytest.fixture(scope="module")
def users_python(patched_build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has pyllama, NumPy and nothing else."""
    numpy = importlib.util.find_spec("numpy")
    if numpy is None or numpy.origin is None:
        pytest.skip("NumPy is not installed")
    home = tmp_path_factory.mktemp("user")
    venv.create(home, with_pip=False, symlinks=os.name != "nt")
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    said = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    site = Path(said.stdout.strip())
    package = Path(pyllama.__file__).parent
    shutil.copytree(package, site / "pyllama", ignore=shutil.ignore_patterns("__pycache__", "_build"))
    shutil.copy(patched_build.folder / "python" / "lib.pyi", site / "pyllama")
    (site / "numpy").symlink_to(Path(numpy.origin).parent, target_is_directory=True)
    return python


def marked() -> set[int]:
    """Numbers of the lines that are wrong."""
    lines = WRONG.read_text("utf-8").splitlines()
    found = {number for number, line in enumerate(lines, 1) if line.endswith("  # wrong")}
    assert len(found) > 30
    return found


def mypy(python: Path, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """`mypy --strict` as the owner of that environment runs it, in a folder without settings."""
    pytest.importorskip("mypy")
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), *args],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k not in ("MYPYPATH", "PYTHONPATH")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_a_right_program_is_right(users_python: Path, tmp_path: Path) -> None:
    shutil.copytree(PROJECT, tmp_path / "askbot", ignore=shutil.ignore_patterns("__pycache__"))
    done = mypy(users_python, tmp_path, "-p", "askbot")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"no issues found in [6-9] source files", done.stdout), done.stdout


def test_each_wrong_line_is_found(users_python: Path, tmp_path: Path) -> None:
    shutil.copy(WRONG, tmp_path)
    done = mypy(users_python, tmp_path, "wrong.py")
    assert done.returncode == 1, done.stdout + done.stderr
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert not [line for line in errors if not line.startswith("wrong.py:")], done.stdout
    found = {int(line.split(":")[1]) for line in errors}
    assert found == marked(), done.stdout


@pytest.fixture(scope="module")
def pyright() -> str:
    """The program, of this environment or of the machine."""
    folder = str(Path(sys.executable).parent)
    names = [("basedpyright", folder), ("basedpyright", None), ("pyright", None)]
    found = next(filter(None, (shutil.which(name, path=path) for name, path in names)), None)
    if found is None:
        pytest.skip("neither basedpyright nor pyright is installed")
    return found


def test_the_other_type_checker(pyright: str, users_python: Path, tmp_path: Path) -> None:
    """Editors ask pyright."""
    shutil.copytree(PROJECT, tmp_path / "askbot", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(WRONG, tmp_path)
    settings = {"typeCheckingMode": "strict", "reportMissingModuleSource": False}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [pyright, "--pythonpath", str(users_python), "--outputjson", "askbot", "wrong.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    said = json.loads(done.stdout)
    assert said["summary"]["filesAnalyzed"] >= 7
    found = [one for one in said["generalDiagnostics"] if one["severity"] == "error"]
    assert not [one for one in found if Path(one["file"]).name != WRONG.name], done.stdout
    assert {one["range"]["start"]["line"] + 1 for one in found} == marked(), done.stdout


def test_without_the_marker_nothing_would_be_known(users_python: Path, tmp_path: Path) -> None:
    """That it is `py.typed` which the other tests rest on."""
    site = next(users_python.parents[1].rglob("site-packages"))
    marker = site / "pyllama" / "py.typed"
    (tmp_path / "askbot.py").write_text("import pyllama\n\nprint(pyllama.Model)\n")
    marker.rename(tmp_path / "taken")
    try:
        done = mypy(users_python, tmp_path, "askbot.py")
    finally:
        (tmp_path / "taken").rename(marker)
    assert "import-untyped" in done.stdout, done.stdout


def test_the_right_program_runs(child: Callable[..., Any], tiny_model: Callable[[str], Path]) -> None:
    """What the types say is so."""
    pytest.importorskip("typing_extensions")
    code = """
import runpy
sys.path.insert(0, sys.argv[1])
sys.argv[1:] = sys.argv[2:]
runpy.run_module("askbot", run_name="__main__")
"""
    said = json.loads(child(code, HERE, tiny_model("attention")).stdout)
    assert said["scored"] < 0 and said["nearest"] == 0 and said["room"] >= 64
    assert said["branches"][1] == said["branches"][0] + 3
    assert said["batched"] == [said["raw"][0]] * 2
    assert re.match(r"\d+: ", said["explained"]), "the context is too small"


def test_both_ways_of_making_a_context_take_the_same() -> None:
    """`Model.context` repeats the keywords of `Context`, for editors and type checkers."""
    one = dict(inspect.signature(pyllama.Context).parameters)
    other = dict(inspect.signature(pyllama.Model.context).parameters)
    del one["model"], other["self"]
    assert one == other and "n_ctx" in one

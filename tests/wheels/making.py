"""Make the wheels as the session `wheel` does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = os.environ.get("PYLLAMA_TEST_WHEELS_BUILD", "")
"""A finished build to make the wheels from; without it, one with BACKENDS is made."""
BACKENDS = (
    tuple(json.loads((Path(BUILD) / "build.json").read_text(encoding="utf-8"))["backends"])
    if BUILD
    else tuple(os.environ.get("PYLLAMA_TEST_WHEELS", "cpu rpc").split())
)
"""`PYLLAMA_TEST_WHEELS` names others."""
CHOICE = ("--build", BUILD) if BUILD else BACKENDS


def clean() -> dict[str, str]:
    """The environment without what chooses a build or leads to the checkout; the cache stays."""
    wrong = ("PYTHONPATH", "SOURCE_DATE_EPOCH", "VIRTUAL_ENV")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in wrong and (not name.startswith("PYLLAMA_") or name == "PYLLAMA_CACHE")
    }


def make(out: Path, *arguments: str, root: Path = ROOT, cwd: Path | None = None, **env: str) -> None:
    """Make wheels into a folder, with the checkout `root`; without `arguments`, of CHOICE."""
    done = subprocess.run(
        [sys.executable, "-m", "backend_wheels", "--out", str(out), *(arguments or CHOICE)],
        cwd=cwd or root,
        env={**clean(), "PYTHONPATH": os.pathsep.join((str(root), str(root / "packaging"))), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]

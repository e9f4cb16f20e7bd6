"""`pyllama verify` on real builds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from real_builds import SUFFIX, TestBuild


def verify(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyllama.builder", "verify", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.matrix
def test_a_build_keeps_what_its_features_promise(patched_build: TestBuild) -> None:
    done = verify("--build", patched_build.folder, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["good"]
    rows = {check["name"]: check for check in report["checks"]}
    assert {"view-copy", "self-locating", "libraries"} <= rows.keys()
    assert not any(check["faults"] for check in rows.values())
    assert "1 symbol" in rows["self-locating"]["about"]


def test_a_broken_promise_is_named(patched_build: TestBuild, stock_build: TestBuild, tmp_path: Path) -> None:
    """The libraries of stock in the place of ours lack what the contract names."""
    folder = tmp_path / "build"
    shutil.copytree(patched_build.folder, folder)
    stock = stock_build.lib_dir / f"libggml{SUFFIX}"
    size = (folder / f"lib/libggml{SUFFIX}").stat().st_size
    (folder / f"lib/libggml{SUFFIX}").write_bytes(stock.read_bytes().ljust(size, b"\0"))
    done = verify("--build", folder)
    assert done.returncode == 1
    # the loader is the first to notice: the library says that it is of another tree
    assert "error: " in done.stderr and "can't be loaded" in done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) < 500


def test_what_is_no_build_is_refused(tmp_path: Path, patched_build: TestBuild) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        done = verify("--build", folder)
        assert (done.returncode, done.stdout) == (1, "")
        assert "not a finished build" in done.stderr
    folder = tmp_path / "build"
    shutil.copytree(patched_build.folder, folder)
    (folder / f"lib/libllama{SUFFIX}").unlink()
    assert "files of it are missing" in verify("--build", folder).stderr


def test_a_build_of_other_patches_is_refused(patched_build: TestBuild, tmp_path: Path) -> None:
    folder = tmp_path / "build"
    shutil.copytree(patched_build.folder, folder)
    info = json.loads((folder / "build.json").read_text())
    (folder / "build.json").write_text(json.dumps({**info, "key": "0" * 64}))
    assert "made from other patches" in verify("--build", folder).stderr

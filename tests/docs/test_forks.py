"""Every command of docs/forks.md, in order, on the real pin, as a fork's maintainer would type them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyllama.builder.git import environment
from pyllama.builder.paths import Paths
from pyllama.builder.pins import Lock
from pyllama.builder.progress import Reporter
from pyllama.builder.project import Project
from pyllama.builder.stack.features import Stack

PAGE = Path(__file__).resolve().parents[2] / "docs" / "forks.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def git(folder: Path, *args: str) -> str:
    done = subprocess.run(
        ["git", *args], cwd=folder, env=environment(), capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, lock: Lock, installed_paths: Paths) -> tuple[Path, str]:
    """Run all blocks in one shell; return the folder and what was written."""
    folder = tmp_path_factory.mktemp("fork")
    pin = lock.pin("2026-10")
    store = Project(installed_paths, lock, Stack(())).store_with(pin, Reporter(quiet=True))
    for name in ("llama.cpp", "newer"):
        place = folder / name
        store.checkout(pin.tree, place)
        (folder / f"{name}.index").unlink()
        git(place, "init", "-q", ".")
        for setting in (("user.name", "x"), ("user.email", "x@localhost")):
            git(place, "config", *setting)
    sources = folder / "newer" / "src" / "CMakeLists.txt"
    text = sources.read_text()
    assert "    unicode.cpp\n" in text
    sources.write_text(text.replace("    unicode.cpp\n", "    unicode.cpp\n    llama-watch.cpp\n"))
    (folder / "newer/src/llama-watch.cpp").write_text("int llama_watch;\n")
    for name in ("llama.cpp", "newer"):
        git(folder / name, "add", "-A", "-f")
        git(folder / name, "commit", "-q", "-m", "upstream")
    programs = folder / "bin"
    programs.mkdir()
    for name, words in (("pyllama", "-m pyllama"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (programs / name).chmod(0o755)
    blocks = BLOCK.findall(PAGE.read_text("utf-8"))
    script = folder / "commands.sh"
    script.write_text("set -eux\n" + "\n".join(blocks))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYLLAMA_SERIES")}
    root = str(PAGE.parents[1])
    env = {**environment(), **inherited, "HOME": str(folder), "PATH": f"{programs}:{os.environ['PATH']}"}
    env["PYLLAMA_CACHE"] = str(installed_paths.cache)
    if not (installed_paths.patches.parent / "_data").is_dir() and root in sys.path:
        env["PYTHONPATH"] = root
    done = subprocess.run(
        ["bash", str(script)],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return folder, done.stdout


def test_all_commands_work(session: tuple[Path, str]) -> None:
    said = session[1]
    assert "ours" in said.splitlines(), "the new function was called through the bindings"
    assert "exit code 5" in said, "a conflict is told by the exit code"


def test_the_exported_tree_is_the_applied_one(session: tuple[Path, str]) -> None:
    folder, said = session
    head = git(folder / "llama.cpp", "rev-parse", "HEAD^{tree}")
    trees = re.findall(r"gives tree ([0-9a-f]{40})", said)
    assert len(trees) >= 4 and set(trees) == {head}
    assert git(folder / "llama.cpp", "rev-parse", "stack^{tree}") == head


def test_what_the_fork_has_at_the_end(session: tuple[Path, str]) -> None:
    folder, _ = session
    feature = folder / "series" / "fork-name"
    assert {path.name for path in (feature / "hooks").iterdir()} == {"2026-10.patch", "newer.patch"}
    newer = (feature / "hooks/newer.patch").read_text()
    assert "+    llama-fork-name.cpp\n" in newer and " llama-watch.cpp\n" in newer
    assert (feature / "files/src/llama-fork-name.cpp").is_file()
    lock = (folder / "series/trees.toml").read_text()
    assert lock.count('pin = "newer"') == lock.count('pin = "2026-10"') > 0

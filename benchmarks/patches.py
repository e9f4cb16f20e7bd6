"""Time of the patch commands, beside plain git doing the same in the same run.

Whole processes, median of five. The source is in the cache, the patched tree is not; the peer is a
git repository with the pristine tree as its commit, of which a work tree is made and `git am` run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from table import Row, report

from pyllama.builder import project
from pyllama.builder.git import environment
from pyllama.builder.paths import locate
from pyllama.builder.progress import Reporter

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5


def median(command: list[str], cwd: Path, env: dict[str, str], before: Callable[[], object]) -> float:
    """Return the median time in seconds of a command that has to succeed; `before` prepares each round."""
    seconds = []
    for _ in range(ROUNDS):
        before()
        start = time.perf_counter()
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - start)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return statistics.median(seconds)


def run(*command: str | Path, cwd: Path, env: dict[str, str]) -> None:
    """Run a step of the preparation."""
    subprocess.run([str(word) for word in command], cwd=cwd, env=env, check=True, capture_output=True)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pin")
    args = parser.parse_args()
    paths = locate()
    opened = project.load(paths)
    pin = opened.pin(args.pin)
    store = opened.store_with(pin, Reporter())

    with tempfile.TemporaryDirectory(prefix="pyllama-bench-") as folder:
        scratch = Path(folder)
        checkout, repo, work = scratch / "checkout", scratch / "repo", scratch / "work"
        for part in ("pyllama", "patches", "tests"):
            shutil.copytree(ROOT / part, checkout / part)
        (checkout / "vendor").mkdir()
        shutil.copy(ROOT / "vendor" / "pins.toml", checkout / "vendor")
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        patches = [sys.executable, "-m", "pyllama.builder", "patches"]
        choice = ["--pin", pin.name]

        plain = {**environment(), "HOME": folder}
        store.checkout(pin.tree, repo)
        run("git", "init", "-q", ".", cwd=repo, env=plain)
        for setting in (("user.name", "x"), ("user.email", "x@localhost")):
            run("git", "config", *setting, cwd=repo, env=plain)
        run("git", "add", "-A", "-f", ".", cwd=repo, env=plain)
        run("git", "commit", "-q", "-m", "pristine", cwd=repo, env=plain)
        mbox = scratch / "stack.mbox"
        run(*patches, "export", *choice, "--format", "mbox", "-o", mbox, cwd=checkout, env=env)

        def nothing() -> None:
            """Leave everything as it is."""

        def no_tree() -> None:
            shutil.rmtree(checkout / "build", ignore_errors=True)

        def no_work_tree() -> None:
            shutil.rmtree(work, ignore_errors=True)
            run("git", "worktree", "prune", cwd=repo, env=plain)

        am = f"git worktree add -q --detach {work} HEAD && git -C {work} am -q {mbox}"
        peer = median(["sh", "-c", am], repo, plain, no_work_tree)
        apply = median([*patches, "apply", *choice], checkout, env, no_tree)
        again = median([*patches, "apply", *choice], checkout, env, nothing)
        status = median([*patches, "status", *choice], checkout, env, nothing)
        lint = median([*patches, "lint", *choice], checkout, env, nothing)

    report(
        "patches",
        [
            Row("git worktree add, git am", peer, "s"),
            Row("patches apply", apply, "s", "git", apply / peer, "≤ 3 s"),
            Row("patches apply, tree is there", again, "s", "git", again / peer),
            Row("patches status", status, "s", "git", status / peer, "≤ 0.5 s"),
            Row("patches lint", lint, "s", "git", lint / peer),
        ],
    )


if __name__ == "__main__":
    main()

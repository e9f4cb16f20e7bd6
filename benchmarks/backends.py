"""Time to add a backend to a build that is there, beside building the core with it from nothing.

In a copy of the checkout with an empty cache for builds and without a compiler cache. The peer is the same
build with the backend from the start. Ninja's record says what was compiled: nothing but the plug-in.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import Row, report

from pyllama.builder.paths import locate

ROOT = Path(__file__).resolve().parents[1]


def build(checkout: Path, cache: Path, *args: str) -> float:
    """Return the seconds that a build takes as a whole process."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHONPATH", "PYLLAMA_"))}
    env.update(PYLLAMA_CACHE=str(cache), CCACHE_DISABLE="1")
    command = [sys.executable, "-m", "pyllama.builder", "build", *args]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def fresh(scratch: Path, name: str) -> tuple[Path, Path]:
    """Return a copy of the checkout, and a cache that holds the sources and nothing built."""
    checkout, cache = scratch / name, scratch / f"{name}-cache"
    for part in ("pyllama", "patches"):
        shutil.copytree(ROOT / part, checkout / part)
    (checkout / "vendor").mkdir()
    shutil.copy(ROOT / "vendor" / "pins.toml", checkout / "vendor")
    shutil.copytree(locate().objects, cache / "objects.git")
    return checkout, cache


def objects(checkout: Path) -> set[str]:
    """Return what Ninja has compiled in the only compilation folder there is."""
    (log,) = checkout.glob("build/*/release/.ninja_log")
    outputs = (line.split("\t")[3] for line in log.read_text(encoding="utf-8").splitlines()[1:])
    return {name for name in outputs if name.endswith(".o")}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="vulkan")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pyllama-bench-") as folder:
        scratch = Path(folder)
        checkout, cache = fresh(scratch, "added")
        core = build(checkout, cache)
        before = objects(checkout)
        added = build(checkout, cache, "--backend", args.backend)
        new = objects(checkout) - before
        others = [name for name in new if f"ggml-{args.backend}" not in name]
        checkout, cache = fresh(scratch, "whole")
        whole = build(checkout, cache, "--backend", args.backend)
    if others:
        sys.exit(f"more than the plug-in was compiled: {', '.join(sorted(others)[:5])}")
    report(
        "backends",
        [
            Row("CPU build", core, "s"),
            Row(f"CPU build with {args.backend} from the start", whole, "s"),
            Row(f"{args.backend} added to the CPU build", added, "s", "whole", added / whole),
            Row("objects compiled for it", len(new), ""),
            Row("of those outside the plug-in", len(others), ""),
        ],
    )


if __name__ == "__main__":
    main()

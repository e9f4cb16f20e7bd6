"""Time of each stage of a build, beside a bare CMake build of the same targets in the same run.

Works in a copy of the checkout with an empty cache for builds, so nothing is found ready but
the fetched source. ccache is off for both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import Row, report

from pyllama.builder.compile import toolchain
from pyllama.builder.fetch.pristine import fetch
from pyllama.builder.paths import locate
from pyllama.builder.pins import load
from pyllama.builder.progress import Reporter

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("llama", "ggml", "ggml-base", "ggml-cpu")


def timed(command: list[str], cwd: Path, env: dict[str, str]) -> tuple[float, str]:
    """Run a command that has to succeed; return its seconds and its output."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return seconds, done.stdout


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pin")
    args = parser.parse_args()
    paths = locate()
    pin = load(paths.pins).pin(args.pin)
    fetch(pin, paths, reporter=Reporter())

    with tempfile.TemporaryDirectory(prefix="pyllama-bench-") as folder:
        scratch = Path(folder)
        checkout, cache = scratch / "checkout", scratch / "cache"
        for part in ("pyllama", "patches"):
            shutil.copytree(ROOT / part, checkout / part)
        (checkout / "vendor").mkdir()
        shutil.copy(ROOT / "vendor" / "pins.toml", checkout / "vendor")
        shutil.copytree(paths.objects, cache / "objects.git")
        env = {**os.environ, "PYLLAMA_CACHE": str(cache), "CCACHE_DISABLE": "1", "SCCACHE_RECACHE": "1"}
        env.pop("PYTHONPATH", None)
        builder = [sys.executable, "-m", "pyllama.builder"]

        fetched, _ = timed([*builder, "fetch", pin.name], checkout, env)
        patched, out = timed([*builder, "patches", "apply", "--pin", pin.name, "--json"], checkout, env)
        tree = Path(json.loads(out)["folder"])
        shutil.rmtree(tree.parent)  # ours has to make it again
        ours, out = timed([*builder, "build", "--pin", pin.name, "--json"], checkout, env)
        info = json.loads(out)
        noop, _ = timed([*builder, "build", "--pin", pin.name, "--json"], checkout, env)

        tools = toolchain.find()
        options = [f"-D{name}={value}" for name, value in info["options"].items()]
        bare_dir = scratch / "bare"
        configure = [tools.cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools.ninja}", "-S", str(tree)]
        bare, _ = timed([*configure, "-B", str(bare_dir), *options], scratch, env)
        jobs = str(os.cpu_count() or 1)
        compiled, _ = timed([tools.ninja, "-C", str(bare_dir), "-j", jobs, *TARGETS], scratch, env)
        bare += compiled

    report(
        "build",
        [
            Row("fetch (cached)", fetched, "s"),
            Row("patch", patched, "s"),
            Row("bare CMake build", bare, "s"),
            Row("our whole build", ours, "s", "bare CMake", ours / bare, "≤ 1.2"),
            Row("no-op rebuild", noop, "s", target="≤ 1 s"),
        ],
    )


if __name__ == "__main__":
    main()

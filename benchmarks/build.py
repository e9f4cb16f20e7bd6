"""Time of each stage of a build, beside a bare CMake build of the same targets in the same run.

Works in a copy of the checkout with an empty cache for builds, so nothing is found ready but
the fetched source. ccache is off for both.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from table import Row, report

from pyllama.builder.compile import toolchain
from pyllama.builder.compile.core import available_cpus
from pyllama.builder.fetch.pristine import fetch
from pyllama.builder.paths import locate
from pyllama.builder.pins import load
from pyllama.builder.progress import Reporter

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("llama", "ggml", "ggml-base", "ggml-cpu")


@dataclass(frozen=True)
class Run:
    """A finished command: seconds on the clock, seconds of CPU in all its processes, output."""

    wall: float
    cpu: float
    out: str

    def __add__(self, other: Run) -> Run:
        return Run(self.wall + other.wall, self.cpu + other.cpu, self.out + other.out)


def timed(command: list[str], cwd: Path, env: dict[str, str]) -> Run:
    """Run a command that has to succeed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(seconds, cpu, done.stdout)


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

        fetched = timed([*builder, "fetch", pin.name], checkout, env)
        patched = timed([*builder, "patches", "apply", "--pin", pin.name, "--json"], checkout, env)
        tree = Path(json.loads(patched.out)["folder"])
        shutil.rmtree(tree.parent)  # ours has to make it again
        ours = timed([*builder, "build", "--no-chat", "--pin", pin.name, "--json"], checkout, env)
        info = json.loads(ours.out)
        noop = timed([*builder, "build", "--no-chat", "--pin", pin.name, "--json"], checkout, env)

        tools = toolchain.find()
        options = [f"-D{name}={value}" for name, value in info["options"].items()]
        bare_dir = scratch / "bare"
        configure = [tools.cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools.ninja}", "-S", str(tree)]
        bare = timed([*configure, "-B", str(bare_dir), *options], scratch, env)
        jobs = str(available_cpus())
        bare += timed([tools.ninja, "-C", str(bare_dir), "-j", jobs, *TARGETS], scratch, env)

    report(
        "build",
        [
            Row("fetch (cached)", fetched.wall, "s"),
            Row("patch", patched.wall, "s"),
            Row("bare CMake build", bare.wall, "s"),
            Row("our whole build", ours.wall, "s", "bare CMake", ours.wall / bare.wall, "≤ 1.2"),
            Row("bare CMake build, CPU time", bare.cpu, "s"),
            Row("our whole build, CPU time", ours.cpu, "s", "bare CMake", ours.cpu / bare.cpu),
            Row("no-op rebuild", noop.wall, "s", target="≤ 1 s"),
        ],
    )


if __name__ == "__main__":
    main()

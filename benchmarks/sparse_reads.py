"""Attention of one sequence among eight in a shared cache on a device: gathered, and read whole.

One library, by turns, each in a process of its own. The sequences are computed on the CPU, and their states
restored on the device: reading thousands of tokens takes lavapipe minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from builds import backend_of, build
from table import Row, report

from pyllama.builder.fetch.models import default_model
from pyllama.builder.paths import locate
from pyllama.builder.pins import load
from pyllama.builder.progress import Reporter

CHILD = Path(__file__).with_name("sparse_child.py")
ROUNDS = 2
EACH = (600, 1000)


def child(*args: object, **env: str) -> dict[str, Any]:
    """Run one measurement."""
    command = [sys.executable, str(CHILD), *map(str, args)]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{args}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pin", default="2026-10")
    parser.add_argument("--device", default="Vulkan0", help="the device to compute on")
    args = parser.parse_args()
    paths = locate()
    model = default_model(load(paths.pins), paths, Reporter())
    env = {"PYLLAMA_BUILD": str(build(args.pin, *backend_of(args.device)))}
    rows = []
    for n in EACH:
        with tempfile.TemporaryDirectory() as folder:
            child(model, n, folder, "write", "", **env)
            best: dict[str, dict[str, Any]] = {}
            for _ in range(ROUNDS):
                for way in ("1", "0"):
                    found = child(model, n, folder, "read", args.device, LLAMA_KV_SPARSE_READS=way, **env)
                    if way not in best or found["token"] < best[way]["token"]:
                        best[way] = found
        ours, whole = best["1"], best["0"]
        what = f"a token of one of eight sequences of {n}"
        same = sum(a == b for a, b in zip(ours["best"], whole["best"], strict=True))
        rows += [
            Row(what, ours["token"], "ms", "read whole", ours["token"] / whole["token"]),
            Row(f"{what}: the same likeliest one, of {len(ours['best'])}", float(same), ""),
        ]
    report(f"sparse_reads-{args.pin}-{args.device}", rows)


if __name__ == "__main__":
    main()

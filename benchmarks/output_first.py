"""Speed against device memory as layers go to a device: the output layer first, and last as in stock 2025-08.

Both orders in one run by turns, each point in processes of its own; the better round of each counts. The
device is lavapipe (Vulkan on the CPU) unless another is named: it shows what crosses, not how fast a GPU is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
from builds import STOCK, backend_of, build
from table import OUT, Row, report

from pyllama.builder.fetch.models import default_model
from pyllama.builder.paths import locate
from pyllama.builder.pins import load
from pyllama.builder.progress import Reporter

HERE = Path(__file__).resolve().parent
ROUNDS = 3
Point = dict[str, Any]


def measure(folder: Path, model: Path, device: str, layers: int, tokens: int, plugin: str) -> Point:
    """Run one point once."""
    words = [str(model), device, str(layers), str(tokens), *([plugin] if plugin else [])]
    env = {**os.environ, "PYLLAMA_BUILD": str(folder), "GGML_VK_VISIBLE_DEVICES": "0"}
    command = [sys.executable, str(HERE / "offload_child.py"), *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{folder.name}, {layers} layers: exit code {done.returncode}\n{done.stderr[-2000:]}")
    found: Point = json.loads(done.stdout)
    return found


def at_memory(points: list[Point], mib: float) -> float:
    """The speed with so much device memory, between the two points around it."""
    return float(numpy.interp(mib, [point["mib"] for point in points], [point["speed"] for point in points]))


def plot(lines: dict[str, list[Point]], title: str, file: Path) -> None:
    """Draw speed over memory; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for (name, points), style in zip(lines.items(), ("o-", "s--"), strict=True):
        axes.plot([point["mib"] for point in points], [point["speed"] for point in points], style, label=name)
        for point in points:
            axes.annotate(str(point["layers"]), (point["mib"], point["speed"]), fontsize=7)
    axes.set(
        xlabel="device memory, MiB (beside the points: n_gpu_layers)", ylabel="tokens a second", title=title
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120, bbox_inches="tight")
    print(file)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pin", default="2025-08")
    parser.add_argument("--device", default="Vulkan0")
    parser.add_argument("--plugin", default="", help="a plug-in with the device, where it is not a backend's")
    parser.add_argument("--layers", default="0,1,2,6,12,18,24,29,30,31")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    paths = locate()
    model = default_model(load(paths.pins), paths, Reporter(quiet=True))
    backend = () if args.plugin else backend_of(args.device)
    builds = {
        "output layer first": build(args.pin, *backend),
        "stock": build(args.pin, *STOCK, *backend),
    }
    lines: dict[str, list[Point]] = {name: [] for name in builds}
    for layers in map(int, args.layers.split(",")):
        best: dict[str, Point] = {}
        for _ in range(args.rounds):
            for name, folder in builds.items():
                found = measure(folder, model, args.device, layers, args.tokens, args.plugin)
                if name not in best or found["speed"] > best[name]["speed"]:
                    best[name] = {**found, "layers": layers}
        for name, point in best.items():
            lines[name].append(point)
    rows = []
    ours, stock = lines.values()
    for mine, theirs in zip(ours, stock, strict=True):
        what = f"{mine['layers']} layers"
        peer = at_memory(stock, mine["mib"])
        same = "stock in that memory"
        rows += [
            Row(
                f"{what}: ours, {mine['mib']:.0f} MiB, {mine['splits']} splits",
                mine["speed"],
                "t/s",
                same,
                mine["speed"] / peer,
            ),
            Row(f"{what}: stock, {theirs['mib']:.0f} MiB, {theirs['splits']} splits", theirs["speed"], "t/s"),
        ]
    name = f"output_first-{args.pin}-{args.device.lower()}"
    report(name, rows)
    plot(lines, f"SmolLM2-135M on {args.device}, llama.cpp {args.pin}", OUT / f"{name}.png")


if __name__ == "__main__":
    main()

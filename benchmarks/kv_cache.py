"""The KV cache: memory that follows what is in it, and attention that skips what is not.

Two libraries of one pin in one run, by turns, each in processes of their own: ours, and stock llama.cpp.
The same model, the same context size of 16,384 and the same tokens on both sides; flash attention on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builds import STOCK, build
from table import OUT, Row, report

from pyllama.builder.fetch.models import default_model
from pyllama.builder.paths import locate
from pyllama.builder.pins import load
from pyllama.builder.progress import Reporter

HERE = Path(__file__).resolve().parent
KV_MIB = 360.0  # of SmolLM2 at this size: 16384 tokens × 30 layers × 2 × 192 values × 2 bytes
ROUNDS = 3


def child(folder: Path, model: Path, *what: str) -> dict[str, Any]:
    """Run one measurement."""
    command = [sys.executable, str(HERE / "kv_child.py"), str(model), *what]
    env = {**os.environ, "PYLLAMA_BUILD": str(folder)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{what}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def best(ways: Mapping[str, tuple[Path, tuple[str, ...]]], model: Path) -> dict[str, dict[str, float]]:
    """Run every way by turns; return the smallest of each figure."""
    seen: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for name, (folder, what) in ways.items():
            for figure, value in child(folder, model, *what).items():
                kept = seen.setdefault(name, {})
                kept[figure] = min(kept.get(figure, value), value)
    return seen


def plot(found: Mapping[str, dict[str, Any]], file: Path) -> None:
    """Draw resident memory over tokens; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, times in found.items():
        axes.plot(*zip(*[(0, times["created"]), *times["grow"]], strict=True), "o-", label=f"{name}, growing")
        axes.plot(*zip(*times["shrink"], strict=True), "x--", label=f"{name}, shrinking")
    axes.set(xlabel="tokens in the sequence", ylabel="resident memory of the context, MiB", ylim=(0, None))
    axes.set_title("SmolLM2-135M, n_ctx 16384, f16, flash attention")
    axes.grid(True, alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120, bbox_inches="tight")
    print(file)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pin", default="2026-10")
    args = parser.parse_args()
    paths = locate()
    model = default_model(load(paths.pins), paths, Reporter())
    ours, stock = build(args.pin), build(args.pin, *STOCK)
    memory = {
        "ours, demand paged": child(ours, model, "memory", "1"),
        "stock": child(stock, model, "memory", "0"),
    }
    paged, whole = memory["ours, demand paged"], memory["stock"]
    last = paged["grow"][-1]
    rows = [
        Row(
            "resident after creation",
            paged["created"],
            "MiB",
            "KV of stock",
            paged["created"] / KV_MIB,
            "≤ 0.05",
        ),
        Row("stock: resident after creation", whole["created"], "MiB"),
        Row(
            f"resident with {last[0]} tokens",
            last[1],
            "MiB",
            "bytes of these",
            last[1] / (last[0] * KV_MIB / 16384),
        ),
        Row("resident after the sequence is removed", paged["shrink"][-1][1], "MiB"),
        Row("stock: resident after the sequence is removed", whole["shrink"][-1][1], "MiB"),
    ]
    speeds = best(
        {"paged": (ours, ("speed", "1")), "plain": (ours, ("speed", "0")), "stock": (stock, ("speed", "0"))},
        model,
    )
    base = speeds["stock"]["token"]
    for name in ("paged", "plain"):
        value = speeds[name]["token"]
        rows.append(
            Row(
                f"decode after 512 tokens, {name}: speed", 1e3 / value, "t/s", "stock", base / value, "≥ 0.98"
            )
        )
    for what in ("freed", "short"):
        found = best({"ours": (ours, (what,)), "stock": (stock, (what,))}, model)
        for figure, value in found["ours"].items():
            theirs = found["stock"][figure]
            rows.append(Row(f"{what}, {figure}: time of a step", value, "ms", "stock", value / theirs))
    report(f"kv_cache-{args.pin}", rows)
    plot(memory, OUT / f"kv_cache-{args.pin}.png")


if __name__ == "__main__":
    main()

"""Saving and restoring a sequence on the device, beside upstream's own way behind the same flag.

Two libraries of pin 2026-10 in one run, by turns: ours, and stock llama.cpp, each in processes of their own.
The shapes: a cache of 30 layers and 192 values a token (SmolLM2's), f16, with V transposed (flash attention
off) and not, and a recurrent state of 30 × 1 MiB. Also the way through the host, and one plain copy of the
same bytes on the device.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builds import backend_of, build
from table import OUT, Row, report

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from tiny_layers import Layers
from tiny_models import Kind, Value, write

HERE = Path(__file__).resolve().parent
ROUNDS = 2  # by turns; the better one of each counts
Times = dict[str, Any]


def _cache(layers: Layers) -> Mapping[str, Value]:
    layers.ends(64)
    for i in range(30):
        layers.norm(i, "attn_norm")
        layers.attention(i, heads=3, kv_heads=3, size=64)
        layers.feed_forward(i, 64)
    return {
        "feed_forward_length": 64,
        "attention.head_count": 3,
        "attention.head_count_kv": 3,
        "attention.key_length": 64,
        "attention.value_length": 64,
        "rope.dimension_count": 64,
        "rope.freq_base": 10000.0,
    }


def _recurrent(layers: Layers) -> Mapping[str, Value]:
    layers.ends(64)
    for i in range(30):
        layers.norm(i, "attn_norm")
        layers.mamba2(i, inner=2048, state=128, heads=32)
    return {
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 2048,
        "ssm.state_size": 128,
        "ssm.time_step_rank": 32,
        "ssm.group_count": 1,
    }


class Ended(Exception):
    """A child ended before it had measured: lavapipe's flash attention does that to it."""


def measure(
    builds: Mapping[str, Path], model: Path, tokens: int, flash: bool, device: str
) -> dict[str, Times]:
    """Run every library by turns; return the better round of each, by its times on the device."""
    best: dict[str, Times] = {}
    for _ in range(ROUNDS):
        for name, folder in builds.items():
            command = [
                sys.executable,
                str(HERE / "state_child.py"),
                str(model),
                str(tokens),
                str(int(flash)),
                device,
            ]
            env = {**os.environ, "PYLLAMA_BUILD": str(folder), "GGML_VK_VISIBLE_DEVICES": "0"}
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Ended(f"{name}, {tokens} tokens: exit code {done.returncode}\n{done.stderr[-500:]}")
            found = json.loads(done.stdout)
            if name not in best or total(found, "device") < total(best[name], "device"):
                best[name] = found
    return best


def total(times: Times, where: str) -> float:
    """Milliseconds of a save and a restore."""
    return float(times[where]["save"] + times[where]["restore"])


def plot(lines: Mapping[str, list[tuple[int, float]]], device: str, file: Path) -> None:
    """Draw save + restore over tokens; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), "o-" if name.startswith("ours") else "s--", label=name)
    axes.set(xscale="log", yscale="log", xlabel="tokens in the sequence", ylabel="save + restore, ms")
    axes.set_title(f"State of a sequence, {device}: 30 layers, f16")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=120, bbox_inches="tight")
    print(file)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="CPU")
    parser.add_argument("--tokens", default="20,200,500,2000,8000")
    args = parser.parse_args()
    backend = backend_of(args.device)
    builds = {"ours": build("2026-10", *backend), "upstream": build("2026-10", "--none", *backend)}
    rows: list[Row] = []
    lines: dict[str, list[tuple[int, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="pyllama-bench-") as folder:
        cache = write(Kind("cache", "llama", _cache), Path(folder))
        recurrent = write(Kind("recurrent", "mamba2", _recurrent, recurrent=True), Path(folder))
        for flash in (False, True):
            shape = "flash attention" if flash else "V transposed"
            for tokens in map(int, args.tokens.split(",")):
                try:
                    found = measure(builds, cache, tokens, flash, args.device)
                except Ended as error:
                    print(f"left out, {shape}: {error}")
                    continue
                ours, theirs = total(found["ours"], "device"), total(found["upstream"], "device")
                host = total(found["ours"], "host")
                what = f"{shape}, {tokens} tokens"
                target = "≤ 1 × upstream" if flash or args.device != "CPU" else "≤ 0.5 × upstream"
                rows += [
                    Row(
                        f"{what}: save + restore on the device",
                        ours,
                        "ms",
                        "upstream's",
                        ours / theirs,
                        target,
                    ),
                    Row(f"{what}: upstream's on the device", theirs, "ms"),
                    Row(f"{what}: through the host", host, "ms", "ours", host / ours),
                ]
                for name, value in (("ours", ours), ("upstream", theirs), ("host", host)):
                    lines.setdefault(f"{name}, {shape}", []).append((tokens, value))
        found = measure(builds, recurrent, 20, False, args.device)
        copy = min(times["copy"] for times in found.values())
        for way in ("save", "restore"):
            value = float(found["ours"]["device"][way])
            rows.append(
                Row(
                    f"recurrent state of 30 MiB: {way}",
                    value,
                    "ms",
                    "plain copy",
                    value / copy,
                    "≤ 1.3 × plain copy",
                )
            )
            rows.append(
                Row(f"recurrent state of 30 MiB: upstream's {way}", found["upstream"]["device"][way], "ms")
            )
        rows.append(Row("one plain copy of the same bytes", copy, "ms"))
    name = f"device_state-{args.device.lower()}"
    report(name, rows)
    plot(lines, args.device, OUT / f"{name}.png")


if __name__ == "__main__":
    main()

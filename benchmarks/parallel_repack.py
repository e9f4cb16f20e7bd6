"""Loading a model of more than 1 GB whose weights are repacked for the CPU, beside stock llama.cpp.

The weights are random blocks, written with gguf. Two libraries of one pin in one run, by turns, each load in
a process of its own, the file in the page cache. What repacking takes is the difference to a load without it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from builds import STOCK, build
from table import Row, report

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import gguf
from tiny_layers import Layers
from tiny_models import Kind, Value, write

HERE = Path(__file__).resolve().parent
N_EMBD, N_FF, HEADS, KV_HEADS, SIZE = 2048, 8192, 16, 4, 128
ROUNDS = 5


def _big(n_layer: int) -> Kind:
    def build(layers: Layers) -> Mapping[str, Value]:
        layers.ends(N_EMBD)
        for i in range(n_layer):
            layers.norm(i, "attn_norm")
            layers.attention(i, heads=HEADS, kv_heads=KV_HEADS, size=SIZE)
            layers.feed_forward(i, N_FF)
        return {
            "feed_forward_length": N_FF,
            "attention.head_count": HEADS,
            "attention.head_count_kv": KV_HEADS,
            "attention.key_length": SIZE,
            "attention.value_length": SIZE,
            "rope.dimension_count": SIZE,
            "rope.freq_base": 10000.0,
        }

    return Kind("big", "llama", build)


def load(folder: Path, model: Path, *, mmap: bool, repack: bool = True, threads: str = "") -> float:
    """Return the seconds that one load takes."""
    command = [sys.executable, str(HERE / "load_child.py"), str(model), str(int(mmap)), str(int(repack))]
    env = {**os.environ, "PYLLAMA_BUILD": str(folder), "GGML_REPACK_THREADS": threads}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{folder.name}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout)["clock"])


def measure(builds: Mapping[str, Path], model: Path, mmap: bool, rounds: int) -> dict[str, float]:
    """Load by turns; return the median of each way."""
    seen: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, seconds in (
            ("without", load(builds["stock"], model, mmap=mmap, repack=False)),
            ("stock", load(builds["stock"], model, mmap=mmap)),
            ("ours", load(builds["ours"], model, mmap=mmap)),
            ("one", load(builds["ours"], model, mmap=mmap, threads="1")),
        ):
            seen.setdefault(name, []).append(seconds)
    return {name: statistics.median(seconds) for name, seconds in seen.items()}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pin", default="2026-10")
    parser.add_argument("--layers", type=int, default=34, help="34 give 1.2 GB of Q4_K or Q4_0")
    parser.add_argument("--types", default="Q4_K,Q4_0")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    builds = {"ours": build(args.pin), "stock": build(args.pin, *STOCK)}
    rows: list[Row] = []
    for name in args.types.split(","):
        with tempfile.TemporaryDirectory(prefix="pyllama-bench-") as folder:
            model = write(_big(args.layers), Path(folder), gguf.GGMLQuantizationType[name])
            rows.append(Row(f"{name}: size of the file", model.stat().st_size / 1e9, "GB"))
            for mmap in (True, False):
                found = measure(builds, model, mmap, args.rounds)
                what = f"{name}, {'mmap' if mmap else 'read'}"
                stock, ours = found["stock"], found["ours"]
                repack = stock - found["without"], ours - found["without"]
                rows += [
                    Row(f"{what}: stock", stock, "s"),
                    Row(f"{what}: ours", ours, "s", "stock", ours / stock, "< 1 × stock"),
                    Row(f"{what}: ours with one thread", found["one"], "s", "stock", found["one"] / stock),
                    Row(f"{what}: without repacking", found["without"], "s"),
                    Row(f"{what}: repacking, stock", repack[0], "s"),
                    Row(f"{what}: repacking, ours", repack[1], "s", "stock's", repack[1] / repack[0]),
                ]
    report(f"parallel_repack-{args.pin}", rows)


if __name__ == "__main__":
    main()

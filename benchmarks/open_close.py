"""Resident memory after 200 cycles of opening and closing model and context, beside that after 20.

In a process each: SmolLM2 and a tiny model of each kind of memory. A cycle loads the model, makes a context,
generates eight tokens, takes a checkpoint, and closes model or context first, by turns; every third one only
drops them. Nobody calls the collector or trims the allocator: what is resident moves in steps, as that takes
and returns pages; what it has given out (`mallinfo2`) tells of a leak to the byte. Linux with glibc only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from table import OUT, Row, report

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from tiny_models import TinyModels

import pyllama
from pyllama.builder.fetch.models import default_model
from pyllama.builder.paths import locate
from pyllama.builder.pins import load
from pyllama.builder.progress import Reporter

KINDS = ("attention", "mamba2", "hybrid", "swa")
CYCLES, BASE, STEP = 200, 20, 10
Seen = list[tuple[int, float, float]]

CHILD = """
import ctypes, json, sys
import pyllama

NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Info

def memory():
    info = mallinfo2()
    with open("/proc/self/status") as file:
        resident = next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) / 1024
    return resident, (info.uordblks + info.hblkhd) / 2**20

path, cycles, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
seen = []
for i in range(1, cycles + 1):
    model = pyllama.Model(path)
    context = model.context(n_ctx=256, threads=1)
    pyllama.generate(context, "Once upon a time", max_tokens=8, temperature=0)
    saved = context.sequence(0).checkpoint()
    if i % 3 == 0:
        context.close()
        model.close()
    elif i % 3 == 1:
        model.close()
    del model, context, saved
    if i % step == 0:
        seen.append((i, *memory()))
print(json.dumps(seen))
"""


def measure(path: Path) -> Seen:
    """Return cycles, MiB resident, and MiB that the allocator has given out."""
    command = [sys.executable, "-c", CHILD, str(path), str(CYCLES), str(STEP)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [(int(i), float(resident), float(given)) for i, resident, given in json.loads(done.stdout)]


def plot(found: dict[str, Seen], file: Path) -> None:
    """Draw how the memory goes over the cycles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, both = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for axes, column, what in zip(both, (1, 2), ("resident", "given out by the allocator"), strict=True):
        for name, seen in found.items():
            base = next(row[column] for row in seen if row[0] == BASE)
            label = f"{name}: {base:.1f} MiB"
            axes.plot([row[0] for row in seen], [row[column] - base for row in seen], ".-", label=label)
        axes.set(xlabel="cycles of opening and closing", ylabel=f"MiB {what}, over those after {BASE}")
        axes.set_ylim(min(-2.0, axes.get_ylim()[0]), max(4.0, axes.get_ylim()[1]))
        axes.grid(True, alpha=0.3)
        axes.legend(title=f"after {BASE} cycles")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    print(file)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    paths = locate()
    pin = pyllama.build_info().pin
    with tempfile.TemporaryDirectory() as folder:
        tiny = TinyModels(pin, Path(folder))
        models = {"SmolLM2-135M": default_model(load(paths.pins), paths, Reporter())}
        models |= {f"tiny {kind}": tiny(kind) for kind in KINDS}
        found = {name: measure(path) for name, path in models.items()}
    rows = []
    for name, seen in found.items():
        first, last = (row for row in seen if row[0] in (BASE, CYCLES))
        peer = f"after {BASE} cycles"
        rows.append(Row(f"{name}, resident", last[1], "MiB", peer, last[1] / first[1], "no growth"))
        rows.append(Row(f"{name}, given out", last[2], "MiB", peer, last[2] / first[2], "no growth"))
    report(f"open_close-{pin}", rows)
    plot(found, OUT / f"open_close-{pin}.png")


if __name__ == "__main__":
    main()

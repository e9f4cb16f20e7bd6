"""What every benchmark shares: a table on the terminal, the same as JSON, and who measured."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

OUT = Path(__file__).resolve().parents[1] / "build" / "bench"


@dataclass(frozen=True)
class Row:
    """One figure; `ratio` is against `peer`, measured in the same run."""

    what: str
    value: float
    unit: str
    peer: str = ""
    ratio: float | None = None
    target: str = ""


def machine() -> str:
    """Name the processor and the number of CPUs that we may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} CPUs, Python {platform.python_version()}"


def report(name: str, rows: list[Row]) -> None:
    """Print the rows and write them to build/bench/NAME.json."""
    print(f"\n{name}: {machine()}")
    width = max(len(row.what) for row in rows)
    for row in rows:
        ratio = f"{row.ratio:6.2f} × {row.peer}" if row.ratio is not None else ""
        target = f" (target {row.target})" if row.target else ""
        print(f"  {row.what:<{width}} {row.value:10.2f} {row.unit:<3} {ratio}{target}")
    OUT.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(), "rows": [asdict(row) for row in rows]}
    (OUT / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

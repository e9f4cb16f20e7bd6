"""What `nox -s cuda` ends with: the plug-in that was built loads, as far as this machine lets it.

`python tests/cuda_state.py`, with PYLLAMA_BUILD. A GPU is not needed; where there is no driver, its library
is the one thing that may be missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

DRIVER = "libcuda.so.1"


def fault(rows: list[dict[str, Any]]) -> str | None:
    """Return what is wrong with CUDA in the answer of `devices --explain --json`; None when nothing is."""
    row = next((row for row in rows if row["backend"] == "cuda"), None)
    if row is None:
        return "devices --explain does not name cuda"
    if row["state"] in ("used", "no device"):
        return None
    if row["state"] == "broken" and f"{DRIVER}: cannot open" in row["advice"]:
        return None
    return f"cuda is {row['state']}: {row['advice']}"


def main() -> str | None:
    """Ask pyllama, say what it says, and return the fault."""
    command = [sys.executable, "-m", "pyllama", "devices", "--explain", "--json"]
    rows = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    for row in rows:
        if row["backend"] == "cuda":
            print(f"cuda: {row['state']}; {', '.join(row['devices']) or row['advice']}")
    return fault(rows)


if __name__ == "__main__":
    sys.exit(main())

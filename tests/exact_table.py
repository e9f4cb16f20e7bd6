"""Where the exactness of restored states was seen: notes of the tests, and docs/exactness.md made of them.

python tests/exact_table.py docs/exactness.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matrix_table import sections

Rows = list[dict[str, Any]]
FOLDER = Path(__file__).parents[1] / "build" / "exactness"
ROUNDED = "the same but for rounding"  # the cells lie elsewhere, so sums run in another order
DEVICES = ("CPU", "loopback", "Vulkan0")
_HEAD = """\
# Exactness of restored states

Written by `nox -s matrix` from what the tests saw (tests/runtime/test_device_state.py): two sequences are
read by turns, both are saved on the device, both go on and a third begins, both are restored; then the next
logits are compared with those that followed the save, bit for bit, and the states of the other sequences
before and after, byte for byte. A number is how many shapes of cache were exact: each type of K and V, with
flash attention and without, in a unified cache and in streams. Models are tiny ones with random weights
(tests/tiny_models.py). "loopback" is a device with memory of its own that computes on the CPU; "Vulkan0" is
the first Vulkan device, Mesa's lavapipe where there is no GPU: there two types are tried, or each with
`PYLLAMA_TEST_EVERY_TYPE=1`, which takes lavapipe minutes a model. An empty cell was not run.
"""


def note(pin: str, kind: str, device: str, rows: Rows) -> None:
    """Keep what a test saw."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{pin}.{device}.{kind}.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def cell(rows: Rows | None) -> str:
    """Return how many were exact, and what was not."""
    if rows is None:
        return ""
    made = [row for row in rows if not row["refused"]]
    wrong = [row for row in made if row["problem"]]
    refused = sorted({row["types"] for row in rows if row["refused"]})
    text = f"{len(made) - len(wrong)} of {len(made)}"
    if wrong and all(row["problem"] == ROUNDED for row in wrong):
        text += f", the others {ROUNDED}"
    if len(rows) > 1 and not any(row["flash_attention"] for row in rows):
        text += "; without flash attention, which ends the process there"
    return text + (f"; no cache of {', '.join(refused)}" if refused else "")


def table(found: Mapping[tuple[str, str], Rows]) -> str:
    """Return the table of a pin; `found` is (device, kind) → rows."""
    devices = [device for device in DEVICES if any(device == seen for seen, _ in found)]
    lines = [["memory", *devices], ["---"] * (len(devices) + 1)]
    lines += [
        [kind, *(cell(found.get((device, kind))) for device in devices)]
        for kind in sorted({kind for _, kind in found})
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(found: Mapping[str, Mapping[tuple[str, str], Rows]], old: str) -> str:
    """Return the page; pins that are not in `found` keep what the old page says of them."""
    told = {**sections(old), **{pin: table(rows) for pin, rows in found.items()}}
    return _HEAD + "".join(f"\n## {pin}\n\n{told[pin].strip()}\n" for pin in sorted(told, reverse=True))


def main(out: Path) -> None:
    """Write the page of what the tests noted."""
    found: dict[str, dict[tuple[str, str], Rows]] = {}
    for file in sorted(FOLDER.glob("*.json")):
        pin, device, kind = file.name.removesuffix(".json").split(".")
        found.setdefault(pin, {})[device, kind] = json.loads(file.read_text(encoding="utf-8"))
    if found:
        out.write_text(page(found, out.read_text(encoding="utf-8") if out.is_file() else ""), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

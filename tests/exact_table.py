"""Where the exactness of restored states was seen: notes of the tests, and docs/exactness.md made of them.

python tests/exact_table.py docs/exactness.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "build" / "exactness"
DEVICES = ("CPU", "loopback", "Vulkan0")
_HEAD = """\
# Exactness of restored states

Written by `nox -s matrix` from what the tests saw (tests/runtime/test_device_state.py): two sequences are
read by turns, both are saved on the device, both go on and a third begins, both are restored; then the next
logits are compared with those that followed the save, bit for bit, and the states of the other sequences
before and after, byte for byte. A number is how many shapes of cache were exact: each type of K and V, with
flash attention and without, in a unified cache and in streams. Models are tiny ones with random weights
(tests/tiny_models.py). "loopback" is a device with memory of its own that computes on the CPU; Vulkan0 was
Mesa's lavapipe.
"""


def note(pin: str, kind: str, device: str, rows: list[dict[str, Any]]) -> None:
    """Keep what a test saw."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{pin}.{device}.{kind}.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def cell(rows: list[dict[str, Any]] | None) -> str:
    """Return how many were exact, and what was not."""
    if rows is None:
        return ""
    made = [row for row in rows if not row["refused"]]
    wrong = [row for row in made if row["problem"]]
    refused = sorted({row["types"] for row in rows if row["refused"]})
    text = f"{len(made) - len(wrong)} of {len(made)}"
    return text + (f"; no cache of {', '.join(refused)}" if refused else "")


def table(found: dict[tuple[str, str, str], list[dict[str, Any]]]) -> Iterable[str]:
    """Yield the page's lines."""
    yield _HEAD
    for pin in sorted({pin for pin, _, _ in found}, reverse=True):
        devices = [d for d in DEVICES if any((pin, d) == key[:2] for key in found)]
        yield f"\n## {pin}\n"
        yield f"| memory | {' | '.join(devices)} |"
        yield f"|---|{'---|' * len(devices)}"
        for kind in sorted({kind for p, _, kind in found if p == pin}):
            yield f"| {kind} | {' | '.join(cell(found.get((pin, d, kind))) for d in devices)} |"


def main() -> None:
    """Write the page."""
    found = {}
    for file in sorted(FOLDER.glob("*.json")):
        pin, device, kind = file.name.removesuffix(".json").split(".")
        found[pin, device, kind] = json.loads(file.read_text(encoding="utf-8"))
    if found:
        Path(sys.argv[1]).write_text("\n".join(table(found)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Makes docs/matrix.md of what `tests/native/test_each_backend.py` saw, a file per pin."""

from __future__ import annotations

import json
import platform
from pathlib import Path

from pyllama.builder import project
from pyllama.builder.paths import locate

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "matrix.md"
MARKER = "<!-- Written by `nox -s matrix` from here on. -->\n"


def render(rows: dict[str, dict[str, str]], features: dict[str, tuple[str, ...]]) -> str:
    """Return the tables of a pin.

    `rows` is backend → column → words, `features` the tests of each feature.
    """
    tried = [name for name in features if any(name in notes for notes in rows.values())]
    others = [name for name in features if name not in tried]
    backends = _grid(rows, ["built", "devices", "tokens, F32", "tokens, Q4_1"])
    by_feature = _grid({name: notes for name, notes in rows.items() if notes.get("built") == "yes"}, tried)
    proofs = [f"- {name}: {', '.join(features[name])}" for name in others]
    return "\n".join([*backends, "", *by_feature, "", "Not a matter of the device:", "", *proofs]) + "\n"


def _grid(rows: dict[str, dict[str, str]], columns: list[str]) -> list[str]:
    lines = [f"| backend | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
    for backend, notes in rows.items():
        lines.append(f"| {backend} | {' | '.join(notes.get(column, '') for column in columns)} |")
    return lines


def sections(text: str) -> dict[str, str]:
    """Return what the page says of each pin."""
    return {
        name: body.strip() + "\n"
        for name, _, body in (part.partition("\n") for part in text.split("\n## ")[1:])
    }


def main() -> None:
    """Read the files of all pins that were run and write the page; the others keep what they had."""
    opened = project.load(locate())
    head, _, old = PAGE.read_text(encoding="utf-8").partition(MARKER)
    told = sections(old)
    for pin in opened.lock.pins:
        file = ROOT / "build" / "matrix" / f"{pin.name}.json"
        if file.is_file():
            chosen = [one for one in opened.select(pin, "all") if one.at(pin.name).kind == "hooks"]
            features = {one.name: one.contract.tests for one in chosen}
            rows = json.loads(file.read_text(encoding="utf-8"))
            where = f"{platform.system()} {platform.machine()}, CPU variant {rows['cpu']['variant']}"
            told[pin.name] = f"Seen on {where}.\n\n{render(rows, features)}"
    body = "".join(f"\n## {pin.name}\n{told[pin.name]}" for pin in opened.lock.pins if pin.name in told)
    PAGE.write_text(f"{head}{MARKER}{body}", encoding="utf-8")


if __name__ == "__main__":
    main()

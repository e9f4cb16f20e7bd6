"""Makes docs/matrix.md of what `tests/native/test_each_backend.py` saw, a file per pin."""

from __future__ import annotations

import json
import platform
from pathlib import Path

from pyllama.builder import project
from pyllama.builder.paths import locate

PAGE = Path(__file__).resolve().parents[1] / "docs" / "matrix.md"
MARKER = "<!-- Written by `nox -s matrix` from here on. -->\n"


def render(seen: dict[str, dict[str, dict[str, str]]], features: dict[str, list[str]]) -> str:
    """Return a table per pin; `seen` is pin → backend → column → words, `features` those of each pin."""
    parts = []
    for pin, rows in seen.items():
        columns = ["built", "devices", "tokens", *features[pin]]
        parts.append(f"## {pin}\n")
        parts.append(f"| backend | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
        for backend, notes in rows.items():
            parts.append(f"| {backend} | {' | '.join(notes.get(column, '') for column in columns)} |")
        parts.append("")
    return "\n".join(parts)


def main() -> None:
    """Read all pins' files and write the page below its marker."""
    paths = locate()
    opened = project.load(paths)
    seen, features = {}, {}
    for pin in opened.lock.pins:
        file = paths.build / "matrix" / f"{pin.name}.json"
        if file.is_file():
            seen[pin.name] = json.loads(file.read_text(encoding="utf-8"))
            features[pin.name] = [feature.name for feature in opened.select(pin, "all")]
    where = f"Seen on {platform.system()} {platform.machine()}, without a GPU.\n\n"
    head = PAGE.read_text(encoding="utf-8").partition(MARKER)[0]
    PAGE.write_text(head + MARKER + "\n" + where + render(seen, features), encoding="utf-8")


if __name__ == "__main__":
    main()

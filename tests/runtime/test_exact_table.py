"""tests/exact_table.py: what it makes of the notes, and that it keeps what was seen of other pins."""

from __future__ import annotations

from pathlib import Path

import exact_table
import pytest


def row(types: str, problem: str = "", refused: bool = False, fa: bool = True) -> dict[str, object]:
    return {"types": types, "flash_attention": fa, "problem": problem, "refused": refused}


def test_what_was_not_computed_is_said() -> None:
    said = "2 of 2; without flash attention, which ends the process there"
    assert exact_table.cell([row("F16", fa=False)] * 2) == said
    assert exact_table.cell([row("F16", fa=False)]) == "1 of 1", "a recurrent model has no attention"
    assert exact_table.cell([row("F16", fa=False), row("F16")]) == "2 of 2"


def test_the_page_keeps_the_pins_that_were_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(exact_table, "FOLDER", tmp_path / "first")
    exact_table.main(page)
    assert not page.exists(), "without notes there is nothing to write"
    exact_table.note("2025-08", "swa", "CPU", [row("F16"), row("Q8_0", "differs"), row("Q5_1", "no", True)])
    exact_table.note("2026-10", "swa", "CPU", [row("F16")])
    exact_table.main(page)
    first = page.read_text("utf-8")
    assert "| swa | 1 of 2; no cache of Q5_1 |" in first and "| swa | 1 of 1 |" in first
    monkeypatch.setattr(exact_table, "FOLDER", tmp_path / "second")
    exact_table.note("2026-10", "delta", "Vulkan0", [row("F16"), row("F32")])
    exact_table.note("2026-10", "hybrid", "loopback", [row("F16")])
    exact_table.main(page)
    second = page.read_text("utf-8")
    head, newest, oldest = second.split("\n## ")
    assert head + "\n## " + oldest == first.split("\n## ")[0] + "\n## " + first.split("\n## ")[2]
    rows = ("memory | loopback | Vulkan0", "--- | --- | ---", "delta |  | 2 of 2", "hybrid | 1 of 1 | ")
    table = "\n" + "".join(f"| {row} |\n" for row in rows)
    assert newest == f"2026-10\n{table}"
    exact_table.main(page)
    assert page.read_text("utf-8") == second, "written twice it is the same"

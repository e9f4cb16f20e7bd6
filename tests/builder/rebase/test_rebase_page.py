"""docs/rebase.md says what the tool says, and its benchmark writes only below the marker."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from pyllama.builder.stack.outcomes import EXIT_CODES, exit_code, worst

ROOT = Path(__file__).parents[3]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("rebase")


def test_the_table_goes_below_the_marker(benchmark: ModuleType) -> None:
    page = f"# A page\n\n{benchmark.MARKER}\nold\n"
    assert benchmark.with_table(page, "new\n") == f"# A page\n\n{benchmark.MARKER}\nnew\n"
    with pytest.raises(SystemExit, match="no line"):
        benchmark.with_table("# A page\n", "new\n")


def test_the_page_is_one_that_was_written(benchmark: ModuleType) -> None:
    head, _, table = (ROOT / "docs" / "rebase.md").read_text().partition(benchmark.MARKER)
    assert all(f"llama-cpp-python-{version}" in table for version in benchmark.SDISTS)
    told = dict(re.findall(r"^\| `([a-z-]+)` \| .* \| (\d) \|$", head, re.MULTILINE))
    assert {word: int(code) for word, code in told.items()} == EXIT_CODES
    cells = {
        cell.strip()
        for row in re.findall(r"^\| [a-z-]+ \|(.*)\|$", table, re.MULTILINE)
        for cell in row.split("|")
    }
    assert cells & EXIT_CODES.keys()


def test_upstreams_text_stays_there(benchmark: ModuleType) -> None:
    hooks = "### What changes in the hooks on x\n\n````text\n```\n-old\n````\n\n"
    lost = "### a on x: conflict\n\n```text\nsrc/a.cpp:7: old\nsrc/a.cpp:9: older\n```\n"
    said = "\n### a on x: conflict\n\n- `src/a.cpp`: 7, 9\n"
    assert benchmark.without_upstreams_text(f"\n{lost}\n{hooks}{lost}") == f"{said}{said}"
    assert benchmark.without_upstreams_text(f"\n{lost}\n{hooks}") == f"{said}\n"


def test_the_order_of_the_words() -> None:
    assert worst(["clean", "merged", "offset"]) == "merged"
    assert exit_code(["partly-upstreamed", "conflict", "clean"]) == 5
    assert exit_code([]) == 0
    assert list(EXIT_CODES.values()) == sorted(EXIT_CODES.values())

"""docs/batching.md: its Python blocks, in order, as one program, and the files that it links to."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.matrix

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "batching.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("kind", ["attention", "hybrid"])
def test_every_block_runs(
    child: Callable[..., Any], tiny_model: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    assert len(BLOCKS) == 5
    (tmp_path / "model.gguf").symlink_to(tiny_model(kind))
    said = child(f"import os\nos.chdir({str(tmp_path)!r})\n" + "\n".join(BLOCKS)).stdout
    assert re.match(r"(\d+ (length|stop)\n){3}True\n", said)
    shared = "[False, True, True]" if kind == "attention" else "[False, False, False]"
    assert shared in said and "{1: ContextError(" in said and said.count(" None\n") == 1
    assert "too late\n" in said
    assert said.endswith("was cancelled: the sequences hold what they held before\nTrue\n")


def test_every_function_is_on_the_page() -> None:
    for name in ("generate_many", "stream_many", "astream", "agenerate", "astream_many", "agenerate_many"):
        assert f"`{name}" in PAGE or f".{name}(" in PAGE
    for name in ("Cancel", "Cancelled", "GenerationErrors", "ForkError", "error.cleared"):
        assert name in PAGE


def test_what_it_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", PAGE) if "://" not in link]
    assert links and not [link for link in links if not (ROOT / "docs" / link).exists()]

"""docs/kv-cache.md: its Python blocks, in order, as one program, and the files that it links to."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.matrix

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "kv-cache.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_block_runs(
    child: Callable[..., Any], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "model.gguf").symlink_to(tiny_model("attention"))
    said = child(f"import os\nos.chdir({str(tmp_path)!r})\n" + "\n".join(BLOCKS)).stdout.splitlines()
    reserved, committed = map(int, said[0].split())
    assert reserved > 0 and committed == 0 and said[1:3] == ["True", "0"]
    holders = [list(map(int, line.split())) for line in said[3:7]]
    assert [row[0] for row in holders] == [0, 1, 2, 3] and all(row[3] > 0 for row in holders)
    assert said[7] == "100 True False" and "60 of 100 cells are in use" in said[8]


def test_what_it_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", PAGE) if "://" not in link]
    assert len(links) >= 3
    assert not [link for link in links if not (ROOT / "docs" / link).exists()]

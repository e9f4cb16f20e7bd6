"""README.md: its Python blocks as one program, and its links."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_chat import with_template

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.matrix
def test_the_tour(child: Callable[..., Any], tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    with_template(tiny_model("attention"), tmp_path / "model.gguf")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 2
    said = child(f"import os\nos.chdir({str(tmp_path)!r})\n" + "\n".join(blocks)).stdout
    assert re.search(r"(length|stop) \(\d+", said), "the second generation and its tokens"
    assert "TokenLogprob(" in said


def test_what_it_links_to_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", PAGE)
    assert len(links) > 30
    assert not [link for link in links if not (ROOT / link).exists()]

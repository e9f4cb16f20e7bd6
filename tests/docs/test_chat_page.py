"""docs/chat.md: its Python blocks as one program, its table of keywords, and its links."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_chat import with_template

pytestmark = pytest.mark.matrix

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEMPLATES = DOCS.parent / "tests" / "runtime" / "templates"


@pytest.mark.parametrize("kind", ["attention", "hybrid"])
def test_the_page(
    child: Callable[..., Any], tiny_model: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    with_template(tiny_model(kind), tmp_path / "model.gguf")
    (tmp_path / "hermes.jinja").write_text((TEMPLATES / "hermes.jinja").read_text("utf-8"))
    page = (DOCS / "chat.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    said = child(f"import os\nos.chdir({str(tmp_path)!r})\n" + "\n".join(blocks)).stdout
    assert int(re.findall(r"known already: (\d+)", said)[0]) > 0
    assert "get_weather ['city']" in said or "length" in said or "tool_calls" not in said
    assert "the schema's #/minimum cannot be used" in said
    assert said.splitlines()[-2:] in (['{"city": "Rome"}', "get_weather"], ['{"city":"Rome"}', "get_weather"])


def test_its_links() -> None:
    page = (DOCS / "chat.md").read_text("utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", page):
        file, _, anchor = link.partition("#")
        headings = re.findall(r"^#+ (.*)$", (DOCS / file).read_text("utf-8"), re.MULTILINE)
        assert not anchor or anchor in [heading.lower().replace(" ", "-") for heading in headings]

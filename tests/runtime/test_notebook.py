"""What a notebook shows: tables, with everything from files and texts escaped."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import pyllama
from pyllama import gguf_file, markup

pytestmark = pytest.mark.matrix


class _Cells(HTMLParser):
    """Collects the texts of cells, and complains of tags that do not close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag in ("table", "tr", "th", "td", "caption")
        self.open.append(tag)
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("th", "td"):
            self.cells[-1] += data


def _cells(thing: Any) -> list[str]:
    return _Cells(thing._repr_html_()).cells


def test_what_a_notebook_user_looks_at(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model:
        cells = _cells(model)
        assert model.path.name in cells and "4096 tokens" in cells and "320 tokens" in cells
        with model.context(n_ctx=512, n_seq_max=2) as context:
            context.sequence(1).feed([5, 6, 7])
            cells = _cells(context)
            assert "0, 3" in cells
            assert ("memory" in cells) == (pyllama.build_info().pin != "2025-08")
        done = pyllama.generate(model, "a", max_tokens=3, temperature=0)
        assert done.text in _cells(done)
    assert _cells(model) == ["model", f"{model.path.name} (closed)"]
    assert _cells(context) == ["context", "closed"]
    cells = _cells(gguf_file.read(tiny_model("attention")))
    assert cells[cells.index("llama.context_length") + 1] == "4096"


def test_everything_is_escaped() -> None:
    nasty = "<script>alert('&')</script>"
    assert _Cells(markup.table({nasty: nasty}, title=nasty)).cells == [nasty, nasty]
    assert _Cells(markup.grid((nasty,), [(nasty,)], title=nasty)).cells == [nasty, nasty]
    done = pyllama.Generation(nasty, (), "stop", 1, 0.0, 0.0, stop=nasty)
    assert nasty in _cells(done)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (98 * 2**20, "98.0 MiB"),
        (3 * 2**50, "3072.0 TiB"),
    ],
)
def test_sizes(nbytes: int, text: str) -> None:
    assert markup.size(nbytes) == text

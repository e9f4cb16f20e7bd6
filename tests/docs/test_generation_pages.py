"""docs/generation.md and docs/embeddings.md: their Python blocks, as a program each, and their links."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders

pytestmark = pytest.mark.matrix

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("generation", "embeddings")


def _page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text("utf-8")


def _program(name: str, folder: Path, pin: str) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```$", _page(name), re.MULTILINE | re.DOTALL)
    blocks = [block for block in blocks if pin != "2025-08" or "pyllama.estimate" not in block]
    assert len(blocks) >= 3
    return f"import os\nos.chdir({str(folder)!r})\n" + "\n".join(blocks)


@pytest.mark.parametrize("kind", ["attention", "hybrid", "mamba2"])
def test_generation(
    child: Callable[..., Any],
    tiny_model: Callable[[str], Path],
    patched_build: Any,
    tmp_path: Path,
    kind: str,
) -> None:
    (tmp_path / "model.gguf").symlink_to(tiny_model(kind))
    said = child(_program("generation", tmp_path, patched_build.pin)).stdout
    assert re.search(r"^(length|stop) 17 \d+$", said, re.MULTILINE)
    assert re.search(r"^(yes|no)$", said, re.MULTILINE)
    prompt, cached = map(int, re.findall(r"^(\d+) (\d+)$", said, re.MULTILINE)[-1])
    assert prompt - 3 <= cached < prompt
    assert said.count("True") >= 2 and "False" not in said


def test_embeddings(
    child: Callable[..., Any], tiny_model: Callable[[str], Path], patched_build: Any, tmp_path: Path
) -> None:
    (tmp_path / "model.gguf").symlink_to(tiny_model("attention"))
    (tmp_path / "ranker.gguf").symlink_to(tiny_encoders.write("rank", tmp_path))
    said = child(_program("embeddings", tmp_path, patched_build.pin)).stdout.splitlines()
    assert said[0].startswith("3 128 (") and said[1:3] == ["True", "True"]
    scores = [float(line.split()[1]) for line in said[3:]]
    assert len(scores) == 2 and scores[0] >= scores[1]


@pytest.mark.parametrize("name", PAGES)
def test_what_they_link_to_is_there(name: str) -> None:
    page = _page(name)
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        assert (DOCS / file).exists()
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (DOCS / file).read_text("utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]


def test_every_sampler_setting_is_on_the_page() -> None:
    import dataclasses

    from pyllama import SamplerParams

    page = _page("generation")
    assert not [field.name for field in dataclasses.fields(SamplerParams) if f"`{field.name}" not in page]

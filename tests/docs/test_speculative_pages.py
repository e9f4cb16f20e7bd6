"""docs/speculative.md and docs/states.md: their Python blocks, as a program each, and their links."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyllama

pytestmark = pytest.mark.matrix

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("speculative", "states")


def _run(name: str, child: Callable[..., Any], folder: Path) -> str:
    page = (DOCS / f"{name}.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    said: str = child(f"import os\nos.chdir({str(folder)!r})\n" + "\n".join(blocks)).stdout
    return said


@pytest.mark.parametrize("kind", ["attention", "hybrid", "mamba2"])
def test_speculative(
    child: Callable[..., Any], tiny_model: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    for name in ("model", "draft"):
        (tmp_path / f"{name}.gguf").symlink_to(tiny_model(kind))
    said = _run("speculative", child, tmp_path).splitlines()
    rounds, drafted, accepted = map(int, said[1].split())
    assert 0 <= accepted <= drafted and rounds <= drafted
    assert " ".join(said).count("True") >= 7 and not any("False" in line for line in said[2:])


@pytest.mark.parametrize("kind", ["attention", "hybrid", "mamba2"])
def test_states(
    child: Callable[..., Any], tiny_model: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    (tmp_path / "model.gguf").symlink_to(tiny_model(kind))
    said = _run("states", child, tmp_path).splitlines()
    assert said == ["True True", "True", "refused: True 2"]


@pytest.mark.parametrize("name", PAGES)
def test_what_they_link_to_is_there(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (DOCS / f"{name}.md").read_text("utf-8"))
    assert links and all((DOCS / link.partition("#")[0]).exists() for link in links)


def test_every_field_is_on_the_page() -> None:
    states, speculative = ((DOCS / f"{name}.md").read_text("utf-8") for name in ("states", "speculative"))
    assert not [f.name for f in dataclasses.fields(pyllama.Reuse) if f"| `{f.name}` |" not in states]
    lookup = dataclasses.fields(pyllama.PromptLookup)
    assert ", ".join(f"{f.name}={f.default}" for f in lookup) in speculative

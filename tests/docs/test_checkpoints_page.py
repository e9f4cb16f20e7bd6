"""docs/checkpoints.md: its Python blocks, in order, as one program, and the files that it links to."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.matrix

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "checkpoints.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
MEMORY = "ctx.memory()"


@pytest.mark.parametrize("kind", ["hybrid", "mamba2", "swa", "attention"])
def test_every_block_runs(
    child: Callable[..., Any],
    tiny_model: Callable[[str], Path],
    patched_build: Any,
    tmp_path: Path,
    kind: str,
) -> None:
    (tmp_path / "model.gguf").symlink_to(tiny_model(kind))
    blocks = [block for block in BLOCKS if patched_build.pin != "2025-08" or MEMORY not in block]
    assert len(blocks) >= 5
    folder = f"import os\nos.chdir({str(tmp_path)!r})\n"
    said = child(folder + "\n".join(blocks)).stdout.splitlines()
    tokens, nbytes, on_host = said[0].split()
    assert int(tokens) == len("The quick brown fox") + 1 and int(nbytes) > 0 and on_host == "False"
    assert said[-1] == said[-2] and int(said[-1]) > 0, "what the flag saved is given back"


def test_what_it_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", PAGE) if "://" not in link]
    assert len(links) >= 6
    assert not [link for link in links if not (ROOT / "docs" / link).exists()]

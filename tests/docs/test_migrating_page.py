"""docs/migrating.md: its Python blocks as one program, the names on both sides of its tables, its links."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peers import llama_cpp_python

import pyllama
from pyllama.builder.pins import Lock

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "migrating.md").read_text("utf-8")

OBJECTS = {
    "ctx": pyllama.Context,
    "done": pyllama.Generation,
    "embedder": pyllama.Embedder,
    "model": pyllama.Model,
    "piece": pyllama.Piece,
    "sampler": pyllama.Sampler,
    "seq": pyllama.Sequence,
    "vectors": pyllama.Embeddings,
}
SET_WHEN_MADE = {"embedder.pooling", "ctx.model"}  # attributes of objects, which their class does not have


def _program(folder: Path) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 10
    return f"import os\nos.chdir({str(folder)!r})\n" + "\n".join(blocks)


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["attention", "mamba2"])
def test_its_code_runs(
    child: Callable[..., Any], tiny_model: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    (tmp_path / "model.gguf").symlink_to(tiny_model(kind))
    said = child(_program(tmp_path)).stdout.splitlines()
    assert any(re.search(r"(length|stop) 17 \d+$", line) for line in said)
    assert {"yes", "no"} & set(said), "the grammar"
    assert "4" in said, "OpenAI's dictionary"
    assert "True False" in said, "the loop: the forbidden token did not come"
    assert "True" in said, "the checkpoint"
    assert "0" in said, "the C API"
    assert said[-1] == "ModelError"


def _names() -> set[str]:
    """Return every dotted name on the page that begins with one of ours."""
    first = "|".join(["pyllama", *OBJECTS])
    return set(re.findall(rf"(?<![\w./-])((?:{first})(?:\.[A-Za-z_]\w*)+)(?![\w*])", PAGE))


def _there(name: str) -> bool:
    first, *parts = name.split(".")
    if name in SET_WHEN_MADE:
        return True
    if first != "pyllama":
        kind = OBJECTS[first]
        return hasattr(kind, parts[0]) or parts[0] in getattr(kind, "__dataclass_fields__", {})
    found: Any = pyllama
    for i, part in enumerate(parts):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(["pyllama", *parts[: i + 1]]))
            except ImportError:
                return False
        found = getattr(found, part)
    return True


@pytest.mark.matrix
def test_every_name_of_ours_is_there() -> None:
    names = _names() - {"model.gguf"}
    # Constants of newer pins: the page says from which on.
    flash = {f"pyllama.lib.LLAMA_FLASH_ATTN_TYPE_{word}" for word in ("ENABLED", "DISABLED")}
    newer = {"pyllama.lib.LLAMA_LOAD_MODE_MMAP_MLOCK", *flash}
    if pyllama.build_info().pin == "2026-10":
        newer = set()
    assert len(names) > 50
    missing = {name for name in names - newer if not _there(name)}
    assert not missing


def _errors_named() -> set[str]:
    return set(re.findall(r"`(?:pyllama\.errors\.)?(\w+Error)`", PAGE))


def test_every_error_is_there() -> None:
    named = _errors_named() - {"ValueError"}
    assert len(named) >= 5
    assert not [name for name in named if not hasattr(pyllama.errors, name)]


def test_every_keyword_of_a_call_is_there() -> None:
    """`SamplerParams(x=…)` and `Model(x=…)` on the page name fields that there are."""
    import dataclasses
    import inspect

    fields = {field.name for field in dataclasses.fields(pyllama.SamplerParams)}
    used = set(re.findall(r"SamplerParams\((\w+)=", PAGE))
    assert used and used <= fields
    used = set(re.findall(r"Model\((\w+)=", PAGE)) - {"model_path"}
    assert used and used <= set(inspect.signature(pyllama.Model).parameters)


@pytest.mark.matrix
def test_fields_that_are_said_to_be_there_are() -> None:
    """The row of keywords that are the C struct's own, at every pin."""
    (row,) = [line for line in PAGE.splitlines() if "`rope_freq_base`" in line]
    names = re.findall(r"`(\w+)`", row.split("|")[1])
    fields = dict(pyllama.ffi.typeof("struct llama_context_params").fields)
    assert len(names) > 10 and not [name for name in names if name not in fields]


@pytest.fixture(scope="module")
def llama(lock: Lock, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The public methods of llama-cpp-python's `Llama`, each with its parameters."""
    peer = llama_cpp_python(lock.pin("2026-10"), tmp_path_factory.mktemp("peer"))
    tree = ast.parse((peer / "llama_cpp" / "llama.py").read_text("utf-8"))
    (kind,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Llama"]
    return {
        node.name: {arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)} - {"self", "cls"}
        for node in kind.body
        if isinstance(node, ast.FunctionDef)
    }


def test_every_method_of_theirs_is_on_the_page(llama: dict[str, set[str]]) -> None:
    methods = [name for name in llama if not name.startswith("_")]
    assert len(methods) > 20
    assert not [name for name in methods if not re.search(rf"(?<!\w){name}(?!\w)", PAGE)]


@pytest.mark.parametrize("call", ["__init__", "create_completion", "create_chat_completion", "embed"])
def test_every_parameter_of_theirs_is_on_the_page(llama: dict[str, set[str]], call: str) -> None:
    assert not sorted(name for name in llama[call] if not re.search(rf"(?<!\w){name}(?!\w)", PAGE))


def test_what_it_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert links
    headings = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    for link in links:
        file, _, anchor = link.partition("#")
        assert not file or (DOCS / file).exists(), link
        if anchor and not file:
            assert anchor in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings], link

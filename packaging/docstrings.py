"""What the reference would lack: public names without a docstring, and errors that none tells of.

Read from the sources, nothing is imported. An error is told of where its class is named in the docstring of
the function, or of its class; a docstring may refer to another one ("see `Context`", "those of `stream`").
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_REFERS = re.compile(r"\b(see `|those of `|made by `)")
_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Entry:
    """Something that the reference has an entry for."""

    name: str
    docstring: str
    around: str
    """The docstring of the class that it is in."""
    raises: frozenset[str]
    """Names of error classes in `raise` statements of its own body."""

    def untold(self) -> list[str]:
        """Return the errors that no docstring names."""
        if _REFERS.search(self.docstring):
            return []
        return sorted(error for error in self.raises if error not in self.docstring + self.around)


def entries(names: dict[str, str], modules: tuple[str, ...] = ()) -> Iterator[Entry]:
    """Yield an entry for each of `names` (with their modules), for their members, and for whole modules."""
    for name, module in names.items():
        tree = _tree(module) if module not in modules else None
        for node in tree.body if tree is not None else ():
            if isinstance(node, (ast.ClassDef, *_Function)) and node.name == name:
                yield from _node(node, f"pyllama.{name}")
    for module in modules:
        tree = _tree(module)
        yield Entry(f"pyllama.{module}", ast.get_docstring(tree) or "", "", frozenset())
        for node in tree.body:
            if isinstance(node, (ast.ClassDef, *_Function)) and not node.name.startswith("_"):
                yield from _node(node, f"pyllama.{module}.{node.name}")


def _tree(module: str) -> ast.Module:
    path = ROOT / "pyllama" / f"{module.replace('.', '/')}.py"
    return ast.parse(path.read_text(encoding="utf-8"))


def _node(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[Entry]:
    text = ast.get_docstring(node) or ""
    if not isinstance(node, ast.ClassDef):
        yield Entry(name, text, "", _raised(node))
        return
    methods = [one for one in node.body if isinstance(one, _Function)]
    made = frozenset().union(*(_raised(one) for one in methods if one.name in ("__init__", "__post_init__")))
    yield Entry(name, text, "", made)
    for one in methods:
        if not one.name.startswith("_"):
            yield Entry(f"{name}.{one.name}", ast.get_docstring(one) or "", text, _raised(one))


def _raised(function: ast.FunctionDef | ast.AsyncFunctionDef) -> frozenset[str]:
    """Return the classes that a function raises by itself and lets out."""
    found = set()
    for node in ast.walk(function):
        call = node.exc if isinstance(node, ast.Raise) else None
        called = call.func if isinstance(call, ast.Call) else call
        if isinstance(called, ast.Name) and called.id.endswith("Error"):
            found.add(called.id)
    return frozenset(found - {"AssertionError", "AttributeError", "IndexError", "TypeError", "ValueError"})

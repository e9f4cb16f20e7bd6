"""Write `lib.pyi`: every function, constant and struct of the bindings, with nominal pointer types.

Each `struct X *` is a class of its own, so a type checker catches swapped arguments.
"""

from __future__ import annotations

import keyword
from dataclasses import dataclass, field

from pycparser import c_ast

from .headers import Api, Exceptions, Function

_INTEGERS = {"char", "short", "int", "long", "signed", "unsigned"}
_SIZED = {f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_SIZED |= {"size_t", "ssize_t", "intptr_t", "uintptr_t", "ptrdiff_t"}

_HEADER = '''"""Types of `pyllama.lib`, generated from the patched public headers."""

from typing import Any

class CData:
    """A C value or pointer. `p[0]`, `p.field`, `bool(p)`; see cffi."""
    def __getitem__(self, index: Any, /) -> Any: ...
    def __setitem__(self, index: Any, value: Any, /) -> None: ...
    def __bool__(self) -> bool: ...
    def __len__(self) -> int: ...

def unbound() -> dict[str, str]: ...

'''


@dataclass
class _Types:
    """What the headers' type names stand for."""

    typedefs: dict[str, c_ast.Node] = field(default_factory=dict)
    structs: dict[str, c_ast.Struct] = field(default_factory=dict)
    pointers: set[str] = field(default_factory=set)
    # A tag may share its name with a function: then only pointers to it get a class.
    shadowed: set[str] = field(default_factory=set)


def stubs(api: Api, functions: list[Function], exceptions: Exceptions) -> str:
    """Return the text of `lib.pyi`."""
    types = _collect(api)
    for name in {f.name for f in api.functions} & set(types.structs):
        types.shadowed.add(name)
    bodies = [_function(f, types) for f in functions]
    bodies += [_function(f, types) for f in api.functions if f.inline]
    constants = [f"{name}: int" for name in api.numbers]
    constants += [f"{name}: CData" for name in api.strings]
    constants += [f"{name}: int" for name in _enumerators(api)]
    constants += [
        f"{node.name}: int"
        for node in api.nodes
        if isinstance(node, c_ast.Decl) and node.name and not isinstance(node.type, c_ast.FuncDecl)
    ]
    classes = []
    names = sorted(set(types.structs) | types.pointers)
    for name in names:
        struct = types.structs.get(name)
        members = _members(struct, types) if struct is not None else []
        body = members or ["..."]
        if name not in types.shadowed:
            classes += [f"class {name}(CData):", *(f"    {line}" for line in body)]
        classes += [f"class {name}_p(CData):", *(f"    {line}" for line in body)]
    return _HEADER + "\n".join([*classes, "", *constants, "", *bodies]) + "\n"


def _collect(api: Api) -> _Types:
    types = _Types()
    for node in api.nodes:
        if isinstance(node, c_ast.Typedef):
            types.typedefs[node.name] = node.type
            inner = getattr(node.type, "type", None)
            if isinstance(inner, (c_ast.Struct, c_ast.Union)) and inner.name is None:
                types.structs[node.name] = inner
        for struct in _structs(node):
            if struct.name and struct.decls is not None:
                types.structs[struct.name] = struct
    return types


def _structs(node: c_ast.Node) -> list[c_ast.Struct]:
    found = [node] if isinstance(node, (c_ast.Struct, c_ast.Union)) else []
    for _, child in node.children():
        found += _structs(child)
    return found


def _enumerators(api: Api) -> list[str]:
    names: list[str] = []

    def visit(node: c_ast.Node) -> None:
        if isinstance(node, c_ast.Enumerator):
            names.append(node.name)
        for _, child in node.children():
            visit(child)

    for node in api.nodes:
        visit(node)
    return names


def _members(struct: c_ast.Struct, types: _Types) -> list[str]:
    lines = []
    for member in struct.decls or ():
        if member.name is None:  # an anonymous union: its members are reached directly
            inner = getattr(member.type, "type", member.type)
            if isinstance(inner, (c_ast.Struct, c_ast.Union)):
                lines += _members(inner, types)
            continue
        if keyword.iskeyword(member.name):
            lines.append(f"# {member.name}: a Python keyword, use getattr")
            continue
        lines.append(f"{member.name}: {_type(member.type, types)}")
    return lines


def _function(function: Function, types: _Types) -> str:
    params = []
    listed = function.node.args.params if function.node.args else []
    for i, param in enumerate(listed):
        kind = _type(param.type, types, argument=True)
        if kind == "None":
            continue  # (void)
        name = getattr(param, "name", None) or f"arg{i}"
        params.append(f"{name}_: {kind}" if keyword.iskeyword(name) else f"{name}: {kind}")
    listed_text = ", ".join([*params, "/"] if params else [])
    return f"def {function.name}({listed_text}) -> {_type(function.node.type, types)}: ..."


def _type(node: c_ast.Node, types: _Types, argument: bool = False) -> str:
    """Return the Python type of a C type; `argument` widens what cffi converts."""
    if isinstance(node, c_ast.TypeDecl):
        return _type(node.type, types, argument)
    if isinstance(node, c_ast.PtrDecl):
        return _pointer(node.type, types, argument)
    if isinstance(node, c_ast.ArrayDecl):
        return "Any" if argument else "CData"
    if isinstance(node, c_ast.FuncDecl):
        return "Any" if argument else "CData"
    if isinstance(node, c_ast.Enum):
        return "int"
    if isinstance(node, (c_ast.Struct, c_ast.Union)):
        return "CData" if node.name is None or node.name in types.shadowed else str(node.name)
    if isinstance(node, c_ast.IdentifierType):
        return _identifier(node.names, types, argument)
    return "Any"


def _identifier(names: list[str], types: _Types, argument: bool) -> str:
    if len(names) == 1:
        name = names[0]
        if name in types.structs and name not in types.typedefs:
            return name
        if name in types.typedefs:
            target = types.typedefs[name]
            inner = getattr(target, "type", None)
            if isinstance(inner, (c_ast.Struct, c_ast.Union)) and inner.name is None:
                return name
            return _type(target, types, argument)
        if name == "void":
            return "None"
        if name == "_Bool":
            return "bool"
        if name in _SIZED:
            return "int"
        if name in ("float", "double"):
            return "float"
    if set(names) <= _INTEGERS:
        return "bytes" if names == ["char"] else "int"
    return "float" if "double" in names else "Any"


def _pointer(target: c_ast.Node, types: _Types, argument: bool) -> str:
    inner = target.type if isinstance(target, c_ast.TypeDecl) else target
    if isinstance(inner, c_ast.IdentifierType) and len(inner.names) == 1:
        alias = types.typedefs.get(inner.names[0])
        if isinstance(alias, c_ast.TypeDecl) and isinstance(alias.type, (c_ast.Struct, c_ast.Union)):
            inner = alias.type if alias.type.name else inner
            if isinstance(inner, c_ast.IdentifierType):
                types.pointers.add(inner.names[0])
                return f"{inner.names[0]}_p"
    if isinstance(inner, c_ast.Struct) and inner.name:
        types.pointers.add(inner.name)
        return f"{inner.name}_p"
    if argument:
        return "bytes | Any" if _is_char(inner) else "Any"
    return "CData"


def _is_char(node: c_ast.Node) -> bool:
    return isinstance(node, c_ast.IdentifierType) and node.names == ["char"]

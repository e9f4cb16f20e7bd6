"""Write what cffi reads (the cdef) and what it puts in front of its C (the function table).

Functions are not linked but looked up at load time: one slot per function, and a
function-like macro of the same name that calls through the slot. Function-like, because
some names are both a tag and a function.
"""

from __future__ import annotations

import copy

from pycparser import c_ast, c_generator

from ...errors import BindingsError
from .headers import Api, Exceptions, Function, is_variadic


def bound_functions(api: Api, exceptions: Exceptions) -> list[Function]:
    """Return the functions that get a slot.

    Raises BindingsError for a variadic function that is not listed as an exception.
    """
    bound = []
    for function in api.functions:
        if function.name in exceptions.functions or function.inline:
            continue
        if is_variadic(function.node):
            raise BindingsError(
                f"{function.name} in {function.header} is variadic: list it in bindgen/exceptions.toml"
            )
        bound.append(function)
    return bound


def cdef(api: Api, exceptions: Exceptions) -> str:
    """Return the declarations for `FFI.cdef`."""
    write = c_generator.CGenerator()
    lines: list[str] = []
    for node in api.nodes:
        kind = getattr(node, "type", None)
        if isinstance(kind, c_ast.FuncDecl):
            if node.name in exceptions.functions:
                continue
            node = copy.copy(node)
            node.storage, node.funcspec = [], []
        elif isinstance(node, c_ast.Decl) and node.name:
            node = copy.copy(node)
            node.init = None  # a constant: cffi asks the compiler for its value
        lines.append(write.visit(_with_open_arrays(node)) + ";")
    lines += [f"#define {name} ..." for name in api.numbers]
    lines += [f"static char *const {name};" for name in api.strings]
    return "\n".join(lines) + "\n"


def preamble(api: Api, functions: list[Function], identity: str) -> str:
    """Return the C that stands in front of cffi's: includes, slots, macros, table, identity."""
    out = [f'#include "{name}"' for name in api.headers]
    out.append('#include "pyllama_shim.h"')
    out += [f"static __typeof__(&{f.name}) p_{f.name};" for f in functions]
    out.append("static struct { const char *name; void **slot; } pyllama_table[] = {")
    out += [f'    {{"{f.name}", (void **) &p_{f.name}}},' for f in functions]
    out.append("};")
    out.append(_TABLE)
    out.append(f"const char *pyllama_module_identity(void) {{ return {_c_string(identity)}; }}")
    out += [f"#define {f.name}(...) (*p_{f.name})(__VA_ARGS__)" for f in functions]
    return "\n".join(out) + "\n"


_TABLE = """
#define PYLLAMA_TABLE_SIZE (sizeof pyllama_table / sizeof pyllama_table[0])
size_t pyllama_table_size(void) { return PYLLAMA_TABLE_SIZE; }
const char *pyllama_table_name(size_t i) { return i < PYLLAMA_TABLE_SIZE ? pyllama_table[i].name : NULL; }
bool pyllama_table_bound(size_t i) { return i < PYLLAMA_TABLE_SIZE && *pyllama_table[i].slot != NULL; }
size_t pyllama_table_bind(void *library) {
    size_t bound = 0;
    for (size_t i = 0; i < PYLLAMA_TABLE_SIZE; i++) {
        if (*pyllama_table[i].slot == NULL) {
            void *address = pyllama_symbol(library, pyllama_table[i].name);
            if (address != NULL) {
                *pyllama_table[i].slot = address;
                bound++;
            }
        }
    }
    return bound;
}
"""


def _c_string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class _OpenArrays(c_ast.NodeVisitor):  # type: ignore[misc]  # pycparser has no types
    """Turns array lengths that need the compiler (`sizeof`) into `[...]`."""

    def visit_ArrayDecl(self, node: c_ast.ArrayDecl) -> None:
        if node.dim is not None and _has_sizeof(node.dim):
            node.dim = c_ast.ID("...")
        self.generic_visit(node)


def _has_sizeof(node: c_ast.Node) -> bool:
    if isinstance(node, c_ast.UnaryOp) and node.op == "sizeof":
        return True
    return any(_has_sizeof(child) for _, child in node.children())


def _with_open_arrays(node: c_ast.Node) -> c_ast.Node:
    if not _any_sizeof_array(node):
        return node
    node = copy.deepcopy(node)
    _OpenArrays().visit(node)
    return node


def _any_sizeof_array(node: c_ast.Node) -> bool:
    if isinstance(node, c_ast.ArrayDecl) and node.dim is not None and _has_sizeof(node.dim):
        return True
    return any(_any_sizeof_array(child) for _, child in node.children())

"""The loaded C API as plain data: `python -m pyllama.native.interface` writes it as JSON.

Whoever wants to compare two builds starts a process for each: one process can load only one.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from .loader import Library, load


def describe(library: Library) -> dict[str, Any]:
    """Return functions and their types, names without an address, constants, and types with their layout.

    Sizes and offsets are in bytes, bit fields in bits.
    """
    functions: dict[str, str] = {}
    constants: dict[str, Any] = {}
    for name in dir(library.raw):
        value = getattr(library.raw, name)
        if name.startswith("pyllama_"):  # our own, of no header
            continue
        if callable(value):
            functions[name] = library.ffi.typeof(value).cname
        elif isinstance(value, (int, float)):
            constants[name] = value
        elif library.ffi.typeof(value).kind in ("pointer", "array"):
            constants[name] = library.ffi.string(value).decode("utf-8", "replace")
    names, structs, unions = library.ffi.list_types()
    every = [*names, *(f"struct {name}" for name in structs), *(f"union {name}" for name in unions)]
    return {
        "functions": functions,
        "missing": sorted(library.missing),
        "constants": constants,
        "types": {name: _layout(library.ffi, name) for name in every},
    }


def _layout(ffi: Any, name: str) -> dict[str, Any]:
    """Return what code that was compiled against a type relies on."""
    ctype = ffi.typeof(name)
    found: dict[str, Any] = {"kind": ctype.kind, "name": ctype.cname}
    if ctype.kind == "enum":
        found["values"] = {name: number for number, name in sorted(ctype.elements.items())}
    elif ctype.kind in ("struct", "union"):
        try:
            found["size"] = ffi.sizeof(ctype)
        except ffi.error:  # opaque: nobody relies on more than its name
            return found
        found["fields"] = [
            [field_name, field.type.cname, field.offset, field.bitsize] for field_name, field in ctype.fields
        ]
    return found


if __name__ == "__main__":
    json.dump(describe(load()), sys.stdout)

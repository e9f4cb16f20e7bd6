"""The whole C API of the patched llama.cpp: every public function and constant, as in C.

    from pyllama import ffi, lib
    params = lib.llama_model_default_params()

Functions take and return cffi values, release the GIL, and check nothing but types. A
function that this build has no library for raises `MissingFunctionError` when called.
"""

from __future__ import annotations

from typing import Any

from .native.loader import load
from .native.loader import unbound as unbound

_library = load()


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    value = _library.resolve(name)
    globals()[name] = value  # from now on a plain module attribute, which costs nothing
    return value


def __dir__() -> list[str]:
    return sorted({*dir(_library.raw), "unbound"})

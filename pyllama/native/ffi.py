"""cffi's `ffi` object of the loaded module."""

from __future__ import annotations

from typing import Any

from .loader import load

ffi: Any = load().ffi

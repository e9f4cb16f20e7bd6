"""Compile a patched tree: tools, CPU options, backends, CMake and Ninja."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHAT = Path(__file__).resolve().parents[2] / "native" / "csrc" / "chat"
"""The sources of the library of chat templates, which is compiled with a tree."""


def fingerprint() -> str:
    """Return a hash over the code that decides how a tree is compiled: part of a build's key."""
    digest = hashlib.sha256()
    for path in sorted([*Path(__file__).parent.iterdir(), *CHAT.iterdir()]):
        # backends.toml enters a key by the rows that are chosen: a new row rebuilds nothing.
        if path.suffix in (".py", ".cmake", ".h", ".cpp"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()

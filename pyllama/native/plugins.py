"""The plug-ins that a build has beside its CPU's."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from .installed import BuildInfo


@dataclass(frozen=True)
class Plugin:
    """A backend's library; `source` says where it is from."""

    backend: str
    path: Path
    source: str


def find(build: BuildInfo) -> tuple[Plugin, ...]:
    """Return the plug-ins of the build."""
    prefix = "" if sys.platform == "win32" else "lib"
    suffix = ".dll" if sys.platform == "win32" else ".so"
    return tuple(
        Plugin(name.removeprefix("ggml-"), build.lib_dir / f"{prefix}{name}{suffix}", "the build")
        for name in build.plugins
        if not name.startswith("ggml-cpu")
    )

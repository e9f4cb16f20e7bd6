"""The plug-ins beside the CPU's: those of the build, and those of installed backend-only distributions.

A distribution such as `pyllama-cffi-rpc` holds one plug-in and says so by an entry point. It fits the
build that is installed, so where `PYLLAMA_BUILD` names another one, only what that build holds counts.
A backend that the build holds itself is never taken from a distribution.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import LoadError
from .installed import BuildInfo

GROUP = "pyllama.backends"
"""Of the entry points: the name is a backend, the value a folder with `plugin.json` and the library."""
SCHEMA = 1
"""Of `plugin.json`."""
BUILD = "the build"
_FILE = "plugin.json"
_PREFIX = "" if sys.platform == "win32" else "lib"
# A plug-in is a CMake MODULE, which keeps `.so` on macOS.
_SUFFIX = ".dll" if sys.platform == "win32" else ".so"


@dataclass(frozen=True)
class Plugin:
    """The library of a backend."""

    backend: str
    path: Path
    source: str
    """Where it is from: `BUILD`, or the name of a distribution."""


def names(build: BuildInfo) -> tuple[str, ...]:
    """Return the backends that have a plug-in here, the build's own first; imports and loads nothing."""
    own = (plugin.backend for plugin in _own(build))
    return tuple(dict.fromkeys([*own, *(entry.name for entry in _entries())]))


def find(build: BuildInfo, wanted: Collection[str] | None = None) -> tuple[Plugin, ...]:
    """Return the plug-ins that a build can use beside its CPU's, one for each backend, its own first.

    With `wanted`, only those of these backends; of the others' distributions nothing is imported. Loads no
    library. Raises LoadError for a distribution that is damaged, and for two of the same backend.
    """
    found = {plugin.backend: plugin for plugin in _own(build)}
    own = frozenset(found)
    for entry in _entries():
        if entry.name in own or (wanted is not None and entry.name not in wanted):
            continue
        plugin = _distributed(entry)
        other = found.setdefault(plugin.backend, plugin)
        if other is not plugin:
            raise LoadError(
                f"the distributions {other.source} and {plugin.source} both bring the backend "
                f"{plugin.backend}: run `pip uninstall` for one of them"
            )
    return tuple(plugin for name, plugin in found.items() if wanted is None or name in wanted)


def mismatch(plugin: Plugin, build: BuildInfo) -> str | None:
    """Say in one sentence why a plug-in does not fit a build, and the cure; None when it does.

    Raises LoadError when the `plugin.json` of a distribution is damaged.
    """
    if plugin.source == BUILD:
        return None
    said = _described(plugin.path.parent, plugin.source)["identity"]
    if (said["pin"], said["key"]) == (build.pin, build.key):
        return None
    return (
        f"{plugin.source} is of pin {said['pin']} ({said['key'][:12]}), pyllama-cffi is of pin {build.pin} "
        f"({build.key[:12]}), and they work together only when they come from one build: install the wheel "
        f"that was made with pyllama-cffi's ({_again(plugin.source)}), or run `pip uninstall {plugin.source}`"
    )


def _own(build: BuildInfo) -> list[Plugin]:
    names = [name for name in build.plugins if not name.startswith("ggml-cpu")]
    return [
        Plugin(name.removeprefix("ggml-"), build.lib_dir / f"{_PREFIX}{name}{_SUFFIX}", BUILD)
        for name in names
    ]


def _entries() -> list[metadata.EntryPoint]:
    if os.environ.get("PYLLAMA_BUILD"):
        return []
    return sorted(metadata.entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))


def _distributed(entry: metadata.EntryPoint) -> Plugin:
    # Without a distribution's metadata there is no entry point; a name is missing where they are damaged.
    source = (entry.dist.metadata["Name"] if entry.dist else None) or entry.module.replace("_", "-")
    try:
        folder = Path(entry.load())
    except Exception as error:  # whatever its code raises
        raise _broken(source, f"{entry.value} cannot be imported: {error}") from error
    table = _described(folder, source)
    if table["backend"] != entry.name:
        raise _broken(source, f"it brings the backend {table['backend']}, not {entry.name}")
    path = folder / table["library"]
    if path.parent != folder or not path.is_file():
        raise _broken(source, f"{path} is missing")
    return Plugin(entry.name, path, source)


def _described(folder: Path, source: str) -> dict[str, Any]:
    """Return `plugin.json`, with `identity` read."""
    path = folder / _FILE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["schema"] != SCHEMA:
            raise ValueError(f"its schema is {table['schema']!r}, not {SCHEMA}")
        identity = json.loads(table["identity"])
        texts = (table["backend"], table["library"], identity["pin"], identity["key"])
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("texts are missing")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(source, f"{path} cannot be read: {error}") from error
    return {**table, "identity": identity}


def _broken(source: str, reason: str) -> LoadError:
    return LoadError(
        f"the distribution {source} is damaged ({reason}): install it again from the wheel that you had it "
        f"from ({_again(source)}), or run `pip uninstall {source}`"
    )


def _again(source: str) -> str:
    # On the public index the name is nobody's or a stranger's: pip must look nowhere but in a folder.
    return f"`pip install --force-reinstall --no-deps --no-index --find-links FOLDER {source}`"

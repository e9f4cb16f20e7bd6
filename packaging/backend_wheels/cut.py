"""How one finished build is cut: what the core's wheel holds of it, and what a backend's. Pure functions.

Both parts keep the build's key and identity: that says that they come from one build.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pyllama.builder import third_party
from pyllama.builder.provenance import ADDED
from pyllama.errors import BuildError, UsageError
from pyllama.native.plugins import SCHEMA

_CPU = "ggml-cpu"
_PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class Part:
    """What goes into one wheel; files are named as in the build."""

    manifest: dict[str, Any]
    """`build.json` of the core (without `files`), `plugin.json` of a backend."""
    files: tuple[str, ...]


def plugins_of(info: Mapping[str, Any]) -> dict[str, str]:
    """Return the backends of a build beside its CPU, each with its library's file in the build.

    Raises BuildError when the manifest lists a plug-in and not its file.
    """
    found = {}
    for name in info["plugins"]:
        if not name.startswith(_CPU):
            found[name.removeprefix("ggml-")] = _file_of(info, name)
    return found


def for_all(backends: Iterable[str]) -> list[str]:
    """Return the names of backends with every kind of CPU among them, unless one is named."""
    named = list(backends)
    return named if any(name.startswith("cpu") for name in named) else ["cpu-all", *named]


def only_for(info: Mapping[str, Any]) -> str:
    """Return the variant of CPU that the core of a build is compiled for; empty when it holds all of them."""
    return str(info["cpu"]) if "cpu" in info["backends"] else ""


def _file_of(info: Mapping[str, Any], name: str) -> str:
    for file in info["files"]:
        path = PurePosixPath(file)
        if path.parent.name == "lib" and path.stem in (name, f"lib{name}"):
            return str(file)
    raise BuildError(f"build.json lists the plug-in {name} and no file of it: build it again with --force")


def cut_core(info: Mapping[str, Any], provenance: Mapping[str, Any]) -> tuple[Part, dict[str, Any]]:
    """Return the core with its CPU plug-ins, and its `provenance.json`.

    Libraries of other backends go, and with them what is told about them. Raises UsageError for a copy of a
    build with upstream's programs: they are no part of a wheel.
    """
    if ADDED in info["files"]:
        raise UsageError("the build holds what --tools added: name the folder that `pyllama build` prints")
    gone = set(plugins_of(info).values())
    kept, left = _works(provenance, gone)
    gone |= {row["notice"] for row in left} - {row["notice"] for row in kept}
    manifest = {
        **{name: value for name, value in info.items() if name != "files"},
        "backends": [name for name in info["backends"] if name.startswith("cpu")],
        "plugins": [name for name in info["plugins"] if name.startswith(_CPU)],
    }
    told = {
        **provenance,
        "libraries": [row for row in provenance["libraries"] if row["file"] not in gone],
        "third_party": kept,
    }
    return Part(manifest, tuple(file for file in info["files"] if file not in gone)), told


def cut_plugin(info: Mapping[str, Any], provenance: Mapping[str, Any], backend: str) -> Part:
    """Return the plug-in of a backend: its library and the licences of what is in that.

    Raises UsageError when the build has no such plug-in.
    """
    plugins = plugins_of(info)
    if backend not in plugins:
        raise UsageError(
            f"the build has no plug-in for {backend!r}, only for {', '.join(plugins) or 'the CPU'}: "
            "name the backend when you build"
        )
    library = plugins[backend]
    _, inside = _works(provenance, {library})
    notices = {row["notice"] for row in inside if row["notice"]}
    manifest = {
        "schema": SCHEMA,
        "backend": backend,
        "library": PurePosixPath(library).name,
        **{name: info[name] for name in ("pin", "commit", "key", "build_key", "flavour", "identity")},
    }
    return Part(manifest, (library, "licenses/LICENSE-llama.cpp", *sorted(notices)))


def licenses(info: Mapping[str, Any], provenance: Mapping[str, Any], backend: str = "") -> list[str]:
    """Return what a backend's plug-in, or else the core, was compiled of: SPDX expressions, ours first.

    Works of others that are offered under MIT are used under it. Raises BuildError for a build that does not
    say yet whose headers are in the plug-in.
    """
    plugins = plugins_of(info)
    outside, inside = _works(provenance, {plugins[backend]} if backend else set(plugins.values()))
    told = inside if backend else outside
    expected = [work.name for work in third_party.WORKS if work.outside and work.library == f"ggml-{backend}"]
    silent = set(expected) - {row["name"] for row in told}
    if silent:
        raise BuildError(
            f"the build does not say that {backend} holds code of {', '.join(sorted(silent))}: "
            "build it again with --force"
        )
    applied = {row["license"] for row in provenance["features"] if row["patch"]}
    works = {row["license"] for row in told if "MIT" not in row["license"].split(" OR ")}
    return ["MIT", *sorted((applied | works) - {"MIT"})]


def _works(
    provenance: Mapping[str, Any], libraries: set[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the works of others outside of some libraries, and those inside."""
    rows = provenance["third_party"]
    return [row for row in rows if row["library"] not in libraries], [
        row for row in rows if row["library"] in libraries
    ]

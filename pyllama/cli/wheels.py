"""What installed wheels of ours hold beside Python: plug-ins, and libraries of their maker's system."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePath

from packaging.utils import canonicalize_name

from ..errors import LoadError
from ..native import plugins
from ..native.installed import BuildInfo


@dataclass(frozen=True)
class Origin:
    """A package of the system that grafted libraries are from."""

    name: str
    version: str
    purl: str
    license: str
    """SPDX expression; empty when the wheel does not say."""


@dataclass(frozen=True)
class Wheel:
    """An installed distribution; files are named from site-packages, with the place they have here."""

    distribution: str
    """As the index spells it: small letters and dashes."""
    backend: str
    """What its plug-in is for; empty for the core."""
    plugin: tuple[tuple[str, Path], ...]
    grafted: tuple[tuple[str, Path], ...]
    """Libraries that auditwheel put in."""
    origins: tuple[Origin, ...]


def installed(build: BuildInfo, core: str) -> list[Wheel]:
    """Return the wheels that the build of this process is from: the core's, and those of its plug-ins.

    None of them for a build that is not the installed one. Raises LoadError for a damaged distribution.
    """
    found = []
    try:
        place = Path(str(metadata.distribution(core).locate_file("pyllama/_build")))
        if place.resolve() == build.folder.resolve():
            found.append(_wheel(core, "", None))
    except metadata.PackageNotFoundError:
        pass
    others = (plugin for plugin in plugins.find(build) if plugin.source != plugins.BUILD)
    found += [_wheel(plugin.source, plugin.backend, plugin.path) for plugin in others]
    return sorted(found, key=lambda wheel: wheel.distribution)


def _wheel(name: str, backend: str, plugin: Path | None) -> Wheel:
    files = metadata.distribution(name).files or []
    grafted = sorted((f.as_posix(), Path(str(f.locate()))) for f in files if f.parent.suffix == ".libs")
    boms = sorted(Path(str(f.locate())) for f in files if f.parent.name == "sboms" and f.suffix == ".json")
    return Wheel(
        str(canonicalize_name(name)),
        backend,
        ((PurePath(plugin.parent.name, plugin.name).as_posix(), plugin),) if plugin else (),
        tuple(grafted),
        tuple(origin for bom in boms for origin in _origins(bom)),
    )


def _origins(bom: Path) -> list[Origin]:
    """Return the packages that auditwheel's bill of materials names; the wheel itself is in it, too."""
    try:
        rows = json.loads(bom.read_text(encoding="utf-8")).get("components", ())
        named = [row for row in rows if not row["purl"].startswith("pkg:pypi/")]
        return [Origin(row["name"], row.get("version", ""), row["purl"], _expression(row)) for row in named]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise LoadError(f"{bom} cannot be read ({error}): install the wheel that it is of again") from error


def _expression(row: dict[str, list[dict[str, str]]]) -> str:
    return next((said["expression"] for said in row.get("licenses", ()) if "expression" in said), "")

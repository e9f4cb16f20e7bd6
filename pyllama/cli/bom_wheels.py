"""The parts of an SBOM for what wheels hold beside Python. Needs cyclonedx-python-lib."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from packageurl import PackageURL

from .bom_parts import digest, license_of, own_properties, read_file
from .wheels import Origin, Wheel


class WheelParts(NamedTuple):
    """The components of one wheel, beside its distribution."""

    plugins: list[Component]
    grafted: list[Component]
    origins: list[Component]


def wheel_parts(wheel: Wheel, licenses: Iterable[License]) -> WheelParts:
    """Return what is inside a wheel; `licenses` are those of llama.cpp, which plug-ins are compiled from.

    Raises LoadError when a file of it cannot be read.
    """
    return WheelParts(
        [_library(name, path, licenses) for name, path in wheel.plugin],
        [_library(name, path, ()) for name, path in wheel.grafted],
        [_origin(row, wheel) for row in wheel.origins],
    )


def _library(name: str, path: Path, licenses: Iterable[License]) -> Component:
    return Component(
        bom_ref=name,
        type=ComponentType.LIBRARY,
        name=path.name,
        hashes=[digest(read_file(path.parent, path.name))],
        licenses=licenses,
        properties=own_properties(("file", name)),
    )


def _origin(row: Origin, wheel: Wheel) -> Component:
    return Component(
        bom_ref=f"{wheel.distribution}:{row.purl}",
        type=ComponentType.LIBRARY,
        name=row.name,
        version=row.version or None,
        licenses=[license_of(row.license)] if row.license else (),
        purl=PackageURL.from_string(row.purl),
    )

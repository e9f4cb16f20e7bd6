"""`pyllama info --sbom`: the installed build as a CycloneDX document.

Everything is read from the build itself and from the metadata of the installed distributions. No folder,
no chance and, without SOURCE_DATE_EPOCH, no time goes in: the same gives the same bytes.
"""

from __future__ import annotations

import os
import uuid
from datetime import datetime, timezone
from typing import Any

from .. import extras
from ..builder import provenance
from ..errors import Error, UsageError
from ..extras import DISTRIBUTION
from ..native.installed import build_info, read_json

_NAMESPACE = uuid.UUID("5e0b6f0c-6a53-4f0d-9a0e-5f3c1d0f7b42")
_LIBRARIES = ("cyclonedx", "packageurl", "packaging")


def document() -> str:
    """Return the document, JSON of CycloneDX 1.6, for the build that this process uses.

    Raises Error when cyclonedx-python-lib is missing, LoadError and BuildError when there is no build
    or it is damaged, UsageError when SOURCE_DATE_EPOCH is not a time.
    """
    try:
        from . import wheels
        from .bom import make_bom
        from .distributions import closure
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in _LIBRARIES:
            raise
        raise Error(
            "an SBOM needs cyclonedx-python-lib and packaging: "
            f"{extras.install('sbom')}, or install these two"
        ) from error
    info = build_info()
    folder = info.folder
    build = read_json(folder)
    ours = wheels.installed(info, DISTRIBUTION)
    python = closure(DISTRIBUTION)
    for wheel in ours:
        python |= {name: row for name, row in closure(wheel.distribution).items() if name not in python}
    bom = make_bom(folder, build, provenance.read(folder), python, ours)
    bom.metadata.timestamp = _timestamp()  # type: ignore[assignment]  # without one, none is written
    # Two documents that differ in anything have different numbers.
    bom.serial_number = uuid.uuid5(_NAMESPACE, build["build_key"])
    bom.serial_number = uuid.uuid5(_NAMESPACE, _text(bom))
    return _text(bom) + "\n"


def _text(bom: Any) -> str:
    from cyclonedx.output.json import JsonV1Dot6

    return str(JsonV1Dot6(bom).output_as_string(indent=1))


def _timestamp() -> datetime | None:
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    if not seconds:
        return None
    try:
        return datetime.fromtimestamp(int(seconds), timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"SOURCE_DATE_EPOCH={seconds} is not a number of seconds: correct it") from error

"""Licence texts of the libraries that auditwheel grafted, from the system that they were taken from."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

_BOM = Path("sboms") / "auditwheel.cdx.json"
_DEBIAN = re.compile(r"pkg:deb/[^/]+/([^@?#]+)")
_DOC = Path("/usr/share/doc")


def packages(bom: str) -> list[str]:
    """Return Debian's packages that auditwheel's bill of materials names, sorted."""
    rows = json.loads(bom).get("components", ())
    return sorted({match[1] for row in rows if (match := _DEBIAN.match(row.get("purl", "")))})


def listed(metadata: str, files: list[str]) -> str:
    """Return the wheel's METADATA with licence files added behind those that it lists."""
    lines = metadata.split("\n")
    head = lines.index("")
    last = max(i for i, line in enumerate(lines[:head]) if line.startswith(("License-File:", "Name:")))
    return "\n".join([*lines[: last + 1], *(f"License-File: {file}" for file in files), *lines[last + 1 :]])


def add(unpacked: Path, doc: Path = _DOC) -> list[str]:
    """Put the texts into an unpacked wheel; return the packages that have none here.

    `doc` is where Debian keeps them.
    """
    (info,) = unpacked.glob("*.dist-info")
    if not (info / _BOM).is_file():
        return []
    found, missing = [], []
    for package in packages((info / _BOM).read_text(encoding="utf-8")):
        text = doc / package / "copyright"
        if text.is_file():
            name = f"LICENSE-{package}"
            shutil.copyfile(text, info / "licenses" / name)
            found.append(name)
        else:
            missing.append(package)
    metadata = info / "METADATA"
    metadata.write_text(listed(metadata.read_text(encoding="utf-8"), found), encoding="utf-8")
    return missing

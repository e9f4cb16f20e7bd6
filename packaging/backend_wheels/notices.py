"""What a wheel says of the libraries that auditwheel grafted: licences, and texts from this system."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import grafts

_BOM = Path("sboms") / "auditwheel.cdx.json"
_DEBIAN = re.compile(r"pkg:deb/[^/]+/([^@?#]+)")
_DOC = Path("/usr/share/doc")
_COMMON = Path("/usr/share/common-licenses")


def packages(bom: str) -> list[str]:
    """Return Debian's packages that auditwheel's bill of materials names, sorted."""
    rows = json.loads(bom).get("components", ())
    return sorted({match[1] for row in rows if (match := _DEBIAN.match(row.get("purl", "")))})


def licensed(bom: str) -> str:
    """Return auditwheel's bill of materials with the licences of Debian's packages that we know."""
    table: dict[str, Any] = json.loads(bom)
    for row in table.get("components", ()):
        match = _DEBIAN.match(row.get("purl", ""))
        known = grafts.known(match[1]) if match else None
        if known is not None:
            row["licenses"] = [{"expression": known.license}]
    return json.dumps(table)


def told(metadata: str, license: str, files: Iterable[str]) -> str:
    """Return the wheel's METADATA with its licence, and with licence files behind those that it lists."""
    head, blank, text = metadata.partition("\n\n")
    lines = [line for line in head.split("\n") if not line.startswith("License-Expression:")]
    last = max(i for i, line in enumerate(lines) if line.startswith(("License-File:", "Name:")))
    lines[last + 1 : last + 1] = [f"License-File: {file}" for file in files]
    return "\n".join([*lines, f"License-Expression: {license}"]) + blank + text


def add(unpacked: Path, own: Iterable[str], doc: Path = _DOC, common: Path = _COMMON) -> list[str]:
    """Say in an unpacked wheel what was grafted; return the libraries whose texts are not all here.

    `own` are the licences of what was compiled, SPDX expressions; `doc` and `common` are where Debian keeps
    texts. What is missing follows from the libraries, as other systems' packages are in no bill of materials,
    or in one that leads to no text. Raises BuildError for a library whose licence we do not know.
    """
    (info,) = unpacked.glob("*.dist-info")
    libraries = [path.name for path in sorted(unpacked.glob("*.libs/*"))]
    rows = grafts.rows(libraries)
    found: list[str] = []
    if (info / _BOM).is_file():
        bom = (info / _BOM).read_text(encoding="utf-8")
        found = [package for package in packages(bom) if (doc / package / "copyright").is_file()]
        (info / _BOM).write_text(licensed(bom), encoding="utf-8")
    texts = {f"LICENSE-{package}": doc / package / "copyright" for package in found}
    # They refer to texts that Debian keeps elsewhere.
    shared = {name for row in rows for name in row.texts if (common / name).is_file()} if found else set()
    texts |= {f"LICENSE-{name}": common / name for name in sorted(shared)}
    for name, text in texts.items():
        shutil.copyfile(text, info / "licenses" / name)
    metadata = info / "METADATA"
    said = told(metadata.read_text(encoding="utf-8"), grafts.expression(own, rows), texts)
    metadata.write_text(said, encoding="utf-8")
    whole = {row for row in map(grafts.known, found) if row and shared.issuperset(row.texts)}
    return [library for library in libraries if grafts.known(library) not in whole]

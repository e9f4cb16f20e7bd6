"""Small parts of an SBOM that its components share. Needs cyclonedx-python-lib."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from cyclonedx.model import (
    AttachedText,
    Encoding,
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.license import DisjunctiveLicense, License, LicenseExpression
from cyclonedx.spdx import fixup_id, is_expression

from ..errors import LoadError


def license_of(words: str, text: str = "") -> License:
    """Return a licence by its SPDX identifier, by an SPDX expression, or by what it is called."""
    attached = AttachedText(content=text) if text else None
    known = fixup_id(words)
    if known is None and is_expression(words):
        return LicenseExpression(words)
    return DisjunctiveLicense(id=known, name=None if known else words, text=attached)


def own_properties(*pairs: tuple[str, str]) -> list[Property]:
    """Return properties with names of ours."""
    return [Property(name=f"pyllama:{name}", value=value) for name, value in pairs]


def links(*urls: str, kind: ExternalReferenceType = ExternalReferenceType.VCS) -> list[ExternalReference]:
    """Return references to those that are not empty."""
    return [ExternalReference(type=kind, url=XsUri(url)) for url in urls if url]


def attached_diff(data: bytes) -> AttachedText:
    """Return a diff as text, or in base64 when it is not UTF-8."""
    try:
        return AttachedText(content=data.decode("utf-8"), content_type="text/x-diff")
    except UnicodeDecodeError:
        content = base64.b64encode(data).decode("ascii")
        return AttachedText(content=content, content_type="text/x-diff", encoding=Encoding.BASE_64)


def read_file(folder: Path, name: str) -> bytes:
    """Return a file of a build or wheel; LoadError when it cannot be read."""
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise LoadError(
            f"{folder / name} cannot be read ({error.strerror}): build or install pyllama again"
        ) from error


def digest(data: bytes) -> HashType:
    """Return the sha256 of a file's content."""
    return HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(data).hexdigest())

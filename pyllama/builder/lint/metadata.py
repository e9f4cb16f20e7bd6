"""What a feature says of itself: title, origin, licence, README, contract."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..stack.features import Feature
from .finding import Finding, Place

_TITLE_LIMIT = 72
_ORIGIN = re.compile(r"#\d+|https?://\S+|[0-9a-f]{7,40}|[\w.-]+/[\w.-]+(?:#\d+|@[0-9a-f]{7,40})")
_LICENSES = (
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "GPL-2.0-only"),
    *("GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "ISC", "LGPL-2.1-only", "LGPL-2.1-or-later"),
    *("LGPL-3.0-only", "LGPL-3.0-or-later", "MIT", "MIT-0", "MPL-2.0", "Unlicense", "Zlib"),
)


def check(feature: Feature, series: Path, tests: Path | None) -> Iterator[Finding]:
    """Check metadata, README and contract; `tests` is the checkout in which the contract's tests must be."""
    place = Place(series, feature.name, f"{feature.name}/feature.toml")
    title = feature.title
    if "\n" in title or len(title) > _TITLE_LIMIT or title.endswith("."):
        yield place.error(
            "title", f"the title is not one line of at most {_TITLE_LIMIT} characters without a full stop"
        )
    for origin in feature.origin:
        if not _ORIGIN.fullmatch(origin):
            yield place.error("origin", f"the origin {origin!r} is no #number, URL or commit")
    if feature.license not in _LICENSES:
        yield place.error(
            "license", f"{feature.license!r} is not the SPDX identifier of a licence that we know"
        )
    if feature.upstream_status.startswith("merged-in") and not any(
        entry.kind == "upstream" for entry in feature.pins.values()
    ):
        yield place.warning("status", "upstream has merged it, but at no pin is it marked as upstream's")
    yield from _readme(feature, series)
    yield from _contract(feature, place, tests)


def _readme(feature: Feature, series: Path) -> Iterator[Finding]:
    place = Place(series, feature.name, f"{feature.name}/README.md")
    try:
        text = place.path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        yield place.error(
            "readme", "there is no README.md that can be read: say what the feature does and why"
        )
        return
    if not re.search(rf"\b{feature.name}\b", text) or len(text.split()) < 20:
        yield place.error("readme", "the README does not name the feature and say what it does")


def _contract(feature: Feature, place: Place, tests: Path | None) -> Iterator[Finding]:
    contract = feature.contract
    if not (contract.symbols or contract.macros or contract.needles):
        yield place.error(
            "contract", "the contract names no symbol, macro or needle: a build can't be checked"
        )
    if not contract.tests:
        yield place.warning("contract", "the contract names no test that proves the feature")
    for test in contract.tests:
        if tests is not None and not (tests / test).is_file():
            yield place.error("contract", f"the test {test}, which the contract names, is not there")
    own = {file.path for file in feature.files}
    if contract.symbols and not contract.headers and not any(path.endswith((".h", ".hpp")) for path in own):
        yield place.warning("contract", "the contract names symbols, but no header declares them")

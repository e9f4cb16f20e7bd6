"""Installed Python distributions: one, and all that it requires in this environment. Needs packaging."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@dataclass(frozen=True)
class Distribution:
    """A distribution; `version` is empty when it is required, but not installed."""

    name: str
    """As the index spells it: small letters and dashes."""
    version: str
    license: str
    """What its metadata say: an SPDX expression, or words; empty when they say nothing."""
    requires: tuple[str, ...]


def closure(name: str) -> dict[str, Distribution]:
    """Return a distribution and all that it requires, itself first; empty when it is not installed."""
    found: dict[str, Distribution] = {}
    wanted: list[tuple[str, frozenset[str]]] = [(name, frozenset())]
    seen = set()
    while wanted:
        this = wanted.pop(0)
        if this in seen:
            continue
        seen.add(this)
        name, extras = this
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if found:
                found[name] = Distribution(name, "", "", ())
            continue
        needed = _requirements(installed, extras)
        known = found[name].requires if name in found else ()
        requires = tuple(sorted({*known, *(other for other, _ in needed)}))
        found[name] = Distribution(name, installed.version, _license(installed.metadata), requires)
        wanted += needed
    return found


def _requirements(
    installed: metadata.Distribution, extras: frozenset[str]
) -> list[tuple[str, frozenset[str]]]:
    """Return what is required in this environment: names and the extras asked of them."""
    found = []
    for line in installed.requires or ():
        needed = Requirement(line)
        marker = needed.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *sorted(extras))):
            found.append((str(canonicalize_name(needed.name)), frozenset(needed.extras)))
    return found


def _license(said: metadata.PackageMetadata) -> str:
    table = said.json
    for key in ("license_expression", "license"):
        value = str(table.get(key) or "").strip()
        if value and "\n" not in value:  # some put the whole text there
            return value
    classifiers = [str(value) for value in table.get("classifier") or ()]
    names = [value.rpartition(" :: ")[2] for value in classifiers if value.startswith("License :: ")]
    return ", ".join(names)

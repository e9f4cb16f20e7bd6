"""The parts of an SBOM, and how they hang together. Needs cyclonedx-python-lib."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cyclonedx.model import (
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    XsUri,
)
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import (
    Commit,
    Component,
    ComponentType,
    Diff,
    Patch,
    PatchClassification,
    Pedigree,
    Swhid,
)
from cyclonedx.model.issue import IssueClassification, IssueType
from cyclonedx.model.license import License
from packageurl import PackageURL

from .. import __version__
from ..builder.provenance import UPSTREAM, Change, Linked, Provenance, ThirdParty
from ..extras import DISTRIBUTION
from .bom_parts import attached_diff, digest, license_of, links, own_properties, read_file
from .bom_wheels import wheel_parts
from .distributions import Distribution
from .wheels import Wheel

_ORIGIN = re.compile(
    r"(?P<issues>[\w.-]+/[\w.-]+)?#(?P<number>\d+)"
    r"|(?:(?P<commits>[\w.-]+/[\w.-]+)@)?(?P<commit>[0-9a-f]{7,40})"
    r"|(?P<url>https?://\S+)"
)


def make_bom(
    folder: Path,
    build: Mapping[str, Any],
    held: Provenance,
    installed: Mapping[str, Distribution],
    wheels: Iterable[Wheel] = (),
) -> Bom:
    """Put the parts together; `installed` are the Python distributions, ours first, or none.

    `wheels` are those of them that hold libraries which are not of the build itself.
    """
    wheels = list(wheels)
    top = _pyllama(build, installed, wheels)
    upstream = _llama_cpp(folder, held)
    patches = {change.name: _patch_file(change) for change in held.features if change.patch}
    inside = {wheel: wheel_parts(wheel, upstream.licenses) for wheel in wheels}
    grafted = {part.name: part for wheel in wheels for part in inside[wheel].grafted}
    own = {Path(row.file).name for row in held.libraries} | set(grafted)
    core = {row: _library(folder, row, own, upstream.licenses) for row in held.libraries if _is_core(row)}
    modules = {
        row: _library(folder, row, own, [license_of("MIT")]) for row in held.libraries if not _is_core(row)
    }
    works = {row: _work(folder, row) for row in held.third_party}
    python = {row.name: _distribution(row) for row in installed.values() if row.name != DISTRIBUTION}

    parts = (patches, core, modules, works, python)
    bom = Bom(
        components=[upstream, *(part for group in parts for part in group.values())],
        metadata=BomMetaData(component=top),
    )
    direct = installed[DISTRIBUTION].requires if installed else ()
    bom.register_dependency(top, [upstream, *modules.values(), *_named(python, direct)])
    bom.register_dependency(upstream, [*core.values(), *patches.values()])
    for change in held.features:
        if change.patch:
            bom.register_dependency(patches[change.name], _named(patches, change.requires))
    libraries = {part.name: part for part in core.values()}
    for row, part in {**core, **modules}.items():
        found = [works[work] for work in held.third_party if work.library == row.file]
        bom.register_dependency(part, [*found, *_named({**grafted, **libraries}, row.needs)])
    for name, part in python.items():
        bom.register_dependency(part, _named(python, installed[name].requires))
    # A plug-in requires pyllama and not the other way round; it is of this document because it is found.
    bom.register_dependency(top, _named(python, (wheel.distribution for wheel in wheels)))
    for wheel in wheels:
        every = [part for kind in inside[wheel] for part in kind]
        bom.components.update(every)
        bom.register_dependency(python.get(wheel.distribution, top), every)
        base = [part for name, part in libraries.items() if "ggml-base" in name]
        for part in every:
            needed = [*base, *inside[wheel].grafted] if part in inside[wheel].plugins else ()
            bom.register_dependency(part, needed)
    return bom


def _is_core(row: Linked) -> bool:
    """Say whether a library is upstream's, not the module of our bindings."""
    return row.file.startswith("lib/")


def _named(parts: Mapping[str, Component], names: Iterable[str]) -> list[Component]:
    return [parts[name] for name in names if name in parts]


def _pyllama(
    build: Mapping[str, Any], installed: Mapping[str, Distribution], wheels: Iterable[Wheel]
) -> Component:
    version = installed[DISTRIBUTION].version if installed else __version__
    # A wheel with libraries of its maker's system in it says more than MIT.
    said = (installed[DISTRIBUTION].license if installed else "") or "MIT"
    told = [name for name in ("build_key", "key", "pin", "flavour", "cpu", "compiler") if name in build]
    properties = [(name.replace("_", "-"), str(build[name])) for name in told]
    properties += [(f"option:{name}", value) for name, value in build.get("options", {}).items()]
    properties += [("backend", name) for name in build.get("backends", ())]
    properties += [("backend", wheel.backend) for wheel in wheels if wheel.backend]
    if not installed:
        properties.append(("python-dependencies", f"unknown: {DISTRIBUTION} is not installed here"))
    return Component(
        bom_ref=DISTRIBUTION,
        type=ComponentType.LIBRARY,
        name=DISTRIBUTION,
        version=version,
        licenses=[license_of(said)],
        purl=PackageURL("pypi", name=DISTRIBUTION, version=version),
        properties=own_properties(*properties),
    )


def _llama_cpp(folder: Path, held: Provenance) -> Component:
    """Return upstream with our patches; its ancestor is upstream without them."""
    at = held.upstream
    owner, _, name = (at.repository or "/llama.cpp").partition("/")
    home = f"https://github.com/{at.repository}" if at.repository else ""
    purl = PackageURL("github" if owner else "generic", owner or None, name, at.commit)
    applied = [change for change in held.features if change.patch]
    text = read_file(folder, "licenses/LICENSE-llama.cpp").decode("utf-8", "replace")
    own = license_of("MIT", text)
    # With a patch under another licence, both hold for the whole.
    others = sorted({change.license for change in applied} - {"MIT"})
    pristine = Component(
        bom_ref=f"llama.cpp@{at.commit}",
        type=ComponentType.LIBRARY,
        name="llama.cpp",
        version=at.commit,
        licenses=[own],
        purl=purl,
        swhids=[Swhid(f"swh:1:rev:{at.commit}"), Swhid(f"swh:1:dir:{at.tree}")],
    )
    return Component(
        bom_ref="llama.cpp",
        type=ComponentType.LIBRARY,
        name="llama.cpp",
        version=at.commit,
        licenses=[license_of(" AND ".join(f"({name})" for name in ["MIT", *others]))] if others else [own],
        purl=purl,
        swhids=[Swhid(f"swh:1:dir:{held.tree}")],
        external_references=links(home),
        properties=own_properties(
            ("pin", at.pin),
            ("pin-date", at.date),
            ("tree:pristine", at.tree),
            ("tree:patched", held.tree),
            *(
                ("feature" if change.patch else "feature-of-upstream", change.name)
                for change in held.features
            ),
        ),
        pedigree=Pedigree(
            ancestors=[pristine],
            commits=[Commit(uid=at.commit, url=XsUri(f"{home}/commit/{at.commit}") if home else None)],
            patches=[_patch(folder, change) for change in applied],
            notes="The patches apply in the order of the numbers in their file names.",
        ),
    )


def _patch(folder: Path, change: Change) -> Patch:
    merged = change.upstream_status.startswith("merged-in")
    return Patch(
        type=PatchClassification.BACKPORT if merged else PatchClassification.UNOFFICIAL,
        diff=Diff(text=attached_diff(read_file(folder, change.patch)), url=XsUri(change.patch)),
        resolves=[_issue(origin, change) for origin in change.origin if not _is_commit(origin)],
    )


def _issue(origin: str, change: Change) -> IssueType:
    # The standard wants a kind; ours say only which issue or pull request they come from.
    url = _url(origin)
    return IssueType(
        type=IssueClassification.ENHANCEMENT,
        id=origin,
        name=change.title,
        references=[XsUri(url)] if url else (),
    )


def _is_commit(origin: str) -> bool:
    match = _ORIGIN.fullmatch(origin)
    return match is not None and match["commit"] is not None


def _url(origin: str) -> str:
    """Return where an origin can be read; empty when it is in words."""
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return ""
    if match["url"]:
        return match["url"]
    if match["number"]:
        return f"https://github.com/{match['issues'] or UPSTREAM}/issues/{match['number']}"
    return f"https://github.com/{match['commits'] or UPSTREAM}/commit/{match['commit']}"


def _patch_file(change: Change) -> Component:
    """Return what a patch has no room for in the pedigree: licence, status, hash."""
    return Component(
        bom_ref=change.patch,
        type=ComponentType.FILE,
        name=change.patch,
        description=change.title,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=change.sha256)],
        licenses=[license_of(change.license)],
        external_references=[
            *links(*(_url(origin) for origin in change.origin if _is_commit(origin))),
            *links(
                *(_url(origin) for origin in change.origin if not _is_commit(origin)),
                kind=ExternalReferenceType.ISSUE_TRACKER,
            ),
        ],
        properties=own_properties(
            ("feature", change.name),
            ("upstream-status", change.upstream_status),
            ("tree:patched", change.tree),
            *(("origin", origin) for origin in change.origin),
            *(("requires", name) for name in change.requires),
        ),
    )


def _library(folder: Path, row: Linked, own: set[str], licenses: Iterable[License]) -> Component:
    return Component(
        bom_ref=row.file,
        type=ComponentType.LIBRARY,
        name=Path(row.file).name,
        hashes=[digest(read_file(folder, row.file))],
        licenses=licenses,
        properties=own_properties(
            ("file", row.file), *(("needs-of-system", name) for name in row.needs if name not in own)
        ),
    )


def _work(folder: Path, row: ThirdParty) -> Component:
    text = read_file(folder, row.notice).decode("utf-8", "replace") if row.notice else ""
    return Component(
        bom_ref=f"third-party:{row.name}",
        type=ComponentType.LIBRARY,
        group=row.url.split("/")[-2],  # `yarn` alone is a well-known other work
        name=row.name,
        copyright=row.copyright or None,
        licenses=[license_of(row.license, text)],
        external_references=links(row.url),
        properties=own_properties(("source", row.source)),
    )


def _distribution(row: Distribution) -> Component:
    return Component(
        bom_ref=f"python:{row.name}",
        type=ComponentType.LIBRARY,
        name=row.name,
        version=row.version or None,
        licenses=[license_of(row.license)] if row.license else (),
        purl=PackageURL("pypi", name=row.name, version=row.version or None),
        properties=() if row.version else own_properties(("installed", "no")),
    )

"""Every check of a finished build, as rows that say what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..stack.features import Feature
from . import abi, contract, interface, linkage


@dataclass(frozen=True)
class Check:
    """One check: of a feature's contract, of the libraries, of the ABI."""

    name: str
    about: str
    faults: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether nothing was found."""
        return not self.faults


def of_build(
    features: Sequence[Feature], pin: str, tree: Path, build: Path, machine: Sequence[Path]
) -> tuple[Check, ...]:
    """Check the contracts of `features` and a build's libraries, which may name no folder of `machine`."""
    lib = interface.read(build)
    rows = [
        Check(
            feature.name,
            _extent(feature, pin),
            (*contract.faults(feature, pin, tree, build), *interface.faults(feature, lib)),
        )
        for feature in features
    ]
    rows.append(
        Check(
            "libraries",
            "dependencies, run paths, paths of this machine",
            tuple(linkage.faults(build, machine)),
        )
    )
    return tuple(rows)


def of_abi(stock: Path, patched: Path) -> tuple[Check, ...]:
    """Compare the ABI of two builds with debug information: nothing of the stock one may have changed."""
    before, after = interface.read(stock), interface.read(patched)
    added = interface.additions(before, after)
    kept = f"{len(before.functions)} functions, {len(before.constants)} constants, {len(before.types)} types"
    more = ", ".join(added) or "nothing"
    return (
        Check(
            "bindings", f"{kept} compared with stock; new: {more}", tuple(interface.changes(before, after))
        ),
        Check(
            "abidiff",
            "public functions and types of each library",
            tuple(abi.changes(stock, patched, before.functions)),
        ),
    )


def _extent(feature: Feature, pin: str) -> str:
    contract = feature.contract
    counts = (
        (len(contract.needles) if feature.at(pin).kind == "hooks" else 0, "needle"),
        (len(contract.headers), "header"),
        (len(contract.symbols), "symbol"),
        (len(contract.macros), "macro"),
    )
    return (
        ", ".join(f"{number} {word}{'s' * (number > 1)}" for number, word in counts if number)
        or "nothing promised"
    )

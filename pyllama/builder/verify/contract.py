"""A feature's contract: what has to be in the patched tree and in the build for it to count."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ...errors import PatchError
from ..finished import libraries
from ..stack.features import Feature
from . import elf


def check(feature: Feature, pin: str, tree: Path, build: Path) -> None:
    """Compare a feature's contract with a tree and the build that was made from it.

    Raises PatchError that names the first thing that is missing.
    """
    for fault in faults(feature, pin, tree, build):
        raise PatchError(f"feature {feature.name} at pin {pin}: {fault}")


def faults(feature: Feature, pin: str, tree: Path, build: Path) -> Iterator[str]:
    """Say what a feature's contract names and a tree or the build that was made from it lacks.

    A pin where upstream has the feature itself owes the symbols, headers and macros, but not
    our files' text.
    """
    contract = feature.contract
    if feature.at(pin).kind == "hooks":
        for needle in contract.needles:
            if needle.text not in _read(tree / needle.file):
                yield f"{needle.file} lacks {needle.text!r}, which its contract names"
    declared = json.loads(_read(build / "python" / "declared.json"))
    for header in contract.headers:
        if not (build / "include" / Path(header).name).is_file():
            yield f"the public header {header}, which its contract names, is not there"
    for symbol in contract.symbols:
        if not _exports(build, symbol.library, symbol.name) or symbol.name not in declared["functions"]:
            yield f"{symbol.name} is not in {symbol.library} or its headers"
    for macro in contract.macros:
        if macro not in declared["macros"]:
            yield f"the macro {macro}, which its contract names, is in no header"


def _exports(build: Path, library: str, name: str) -> bool:
    for path in libraries(build):
        if path.stem.removeprefix("lib") == library:
            read = elf.read(path)
            if read is None:  # of a platform whose files we can't take apart
                return name.encode() in path.read_bytes()
            return name in read.exports
    return False


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""

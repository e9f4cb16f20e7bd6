"""A feature's contract: what has to be in the patched tree and in the build for it to count."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import PatchError
from .stack.features import Feature


def check(feature: Feature, pin: str, tree: Path, build: Path) -> None:
    """Compare a feature's contract with a tree and the build that was made from it.

    Raises PatchError that names the first thing that is missing. A pin where upstream has the
    feature itself owes the symbols, headers and macros, but not our files' text.
    """
    contract = feature.contract
    where = f"feature {feature.name} at pin {pin}"
    if feature.at(pin).kind == "hooks":
        for needle in contract.needles:
            if needle.text not in _read(tree / needle.file):
                raise PatchError(f"{where}: {needle.file} lacks {needle.text!r}, which its contract names")
    declared = json.loads(_read(build / "python" / "declared.json"))
    for header in contract.headers:
        if not (build / "include" / Path(header).name).is_file():
            raise PatchError(f"{where}: the public header {header}, which its contract names, is not there")
    for symbol in contract.symbols:
        exported = any(
            symbol.name.encode() in library.read_bytes()
            for library in (build / "lib").iterdir()
            if library.stem.removeprefix("lib") == symbol.library
        )
        if not exported or symbol.name not in declared["functions"]:
            raise PatchError(f"{where}: {symbol.name} is not in {symbol.library} or its headers")
    for macro in contract.macros:
        if macro not in declared["macros"]:
            raise PatchError(f"{where}: the macro {macro}, which its contract names, is in no header")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""

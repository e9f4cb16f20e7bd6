"""What an ELF library exports and needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ... import extras
from ...errors import BuildError

_TEXTS = {"DT_NEEDED": "needed", "DT_RPATH": "rpath", "DT_RUNPATH": "runpath"}


@dataclass(frozen=True)
class Library:
    """The dynamic section of a shared library."""

    exports: frozenset[str]
    """Names of the functions and objects that it defines for others."""
    needed: tuple[str, ...]
    """Libraries that the loader must find."""
    run_paths: tuple[str, ...]
    """Folders in which it looks for them first."""


def read(path: Path) -> Library | None:
    """Read a shared library; None when it is of another kind (macOS, Windows).

    Raises BuildError when it is damaged, or the library that reads it is not installed.
    """
    try:
        from elftools.common.exceptions import ELFError
        from elftools.elf.dynamic import DynamicSection
        from elftools.elf.elffile import ELFFile
        from elftools.elf.sections import SymbolTableSection
    except ModuleNotFoundError as error:
        raise BuildError(f"reading libraries needs pyelftools: {extras.install('build')}") from error

    with path.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return None
        exports: set[str] = set()
        needed: list[str] = []
        run_paths: list[str] = []
        try:
            elf = ELFFile(stream)
            dynamic = elf.get_section_by_name(".dynamic")
            symbols = elf.get_section_by_name(".dynsym")
            if not isinstance(dynamic, DynamicSection) or not isinstance(symbols, SymbolTableSection):
                raise ELFError("it has no dynamic section")
            for tag in dynamic.iter_tags():
                text = getattr(tag, _TEXTS.get(tag.entry.d_tag, ""), "")
                if tag.entry.d_tag == "DT_NEEDED":
                    needed.append(text)
                elif text:
                    run_paths += text.split(":")
            for symbol in symbols.iter_symbols():
                info = symbol.entry.st_info
                if symbol.entry.st_shndx != "SHN_UNDEF" and info.bind in ("STB_GLOBAL", "STB_WEAK"):
                    exports.add(symbol.name)
        except (ELFError, ValueError, UnicodeDecodeError, AttributeError, KeyError) as error:
            raise BuildError(f"{path} is damaged ({error}): build it again") from error
    return Library(frozenset(exports), tuple(needed), tuple(run_paths))

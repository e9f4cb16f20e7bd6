"""What breaks programs that were compiled against the stock build is found; what does not is not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from real_builds import TestBuild, elf_only

from pyllama.builder.verify import abi, elf, interface, linkage
from pyllama.builder.verify.interface import Interface
from pyllama.errors import BuildError

HEADER = """
#ifdef __cplusplus
extern "C" {
#endif
struct model;
enum kind { KIND_A, KIND_B };
struct params { int a; enum kind kind; };
int load(struct params p);
int use(struct model * m);
#ifdef __cplusplus
}
#endif
"""
SOURCE = """
#include "x.h"
struct model { int rows; };
int load(params p) { return p.a + p.kind; }
int use(model * m) { return m->rows; }
int internal(model * m, int x) { return m->rows + x; }
"""
FUNCTIONS = ("load", "use")


def library(folder: Path, header: str = HEADER, source: str = SOURCE, *flags: str) -> Path:
    """Compile a build of one small library."""
    for name in ("include", "lib"):
        (folder / name).mkdir(parents=True)
    (folder / "include/x.h").write_text(header)
    code = folder / "x.cpp"
    code.write_text(source)
    command = ["g++", "-g", "-shared", "-fPIC", f"-I{folder / 'include'}", *flags, str(code)]
    subprocess.run([*command, "-o", str(folder / "lib/libx.so")], check=True)
    return folder


needs_abidiff = pytest.mark.skipif(shutil.which("abidiff") is None, reason="abidiff is not installed")


@needs_abidiff
@pytest.mark.parametrize(
    ("what", "header", "source", "found"),
    [
        ("nothing", HEADER, SOURCE, ""),
        ("a new function", HEADER, SOURCE + 'extern "C" int more(void) { return 1; }', ""),
        ("a private type", HEADER, SOURCE.replace("int rows;", "int rows; int columns;"), ""),
        ("a private function", HEADER, SOURCE.replace("int internal(model * m, int x)", "int in(model * m)")
         .replace("+ x", ""), ""),
        ("a new field", HEADER.replace("int a;", "int a; int b;"), SOURCE, "struct params"),
        ("a wider field", HEADER.replace("int a;", "long a;"), SOURCE, "struct params"),
        ("a renumbered value", HEADER.replace("KIND_A,", "KIND_0, KIND_A,"), SOURCE,
         "'kind::KIND_A' from value '0' to '1'"),
        ("one more value", HEADER.replace("KIND_B }", "KIND_B, KIND_C }"), SOURCE, ""),
        ("a parameter", HEADER.replace("model * m)", "model * m, int n)"),
         SOURCE.replace("int use(model * m)", "int use(model * m, int n)"), "use"),
        ("a function that is gone", HEADER, SOURCE.replace("int use(", "int used("), "use"),
    ],
)  # fmt: skip
def test_abidiff_finds_what_breaks(tmp_path: Path, what: str, header: str, source: str, found: str) -> None:
    stock, patched = library(tmp_path / "stock"), library(tmp_path / "patched", header, source)
    changes = list(abi.changes(stock, patched, FUNCTIONS))
    assert len(changes) == bool(found) and all(found in change for change in changes), (what, changes)


@needs_abidiff
def test_a_library_that_is_gone_or_damaged(tmp_path: Path) -> None:
    stock, patched = library(tmp_path / "stock"), library(tmp_path / "patched")
    (patched / "lib/libx.so").write_bytes(b"\x7fELF and no more")
    with pytest.raises(BuildError, match="could not compare"):
        list(abi.changes(stock, patched, FUNCTIONS))
    (patched / "lib/libx.so").unlink()
    assert list(abi.changes(stock, patched, FUNCTIONS)) == ["the library libx.so is gone"]


def test_without_abidiff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BuildError, match="abigail-tools"):
        abi.program()


KIND = {"kind": "enum", "name": "enum kind", "values": {"A": 0, "B": 1}}
PARAMS = {"kind": "struct", "name": "params", "size": 8, "fields": [["a", "int", 0, -1]]}


def declared(**changed: object) -> Interface:
    table = {
        "functions": {"f": "int(*)(int)", "g": "void(*)(void)"},
        "missing": frozenset({"g"}),
        "constants": {"FLAG": 2},
        "types": {"enum kind": KIND, "params": PARAMS},
    }
    return Interface(**{**table, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("after", "found"),
    [
        (declared(), ()),
        (declared(constants={"FLAG": 2, "NEW": 4}), ()),
        (declared(types={"enum kind": {**KIND, "values": {"A": 0, "B": 1, "C": 2}}, "params": PARAMS}), ()),
        (declared(constants={"FLAG": 4}), ("the constant FLAG was 2 and is 4",)),
        (declared(constants={}), ("the constant FLAG is gone",)),
        (declared(functions={"f": "int(*)(long)", "g": "void(*)(void)"}), ("the function f was",)),
        (declared(missing=frozenset({"f", "g"})), ("the function f is in no library any more",)),
        (declared(types={"enum kind": {**KIND, "values": {"A": 0, "B": 2}}, "params": PARAMS}),
         ("the type enum kind changed B",)),
        (declared(types={"enum kind": KIND, "params": {**PARAMS, "size": 16}}),
         ("the type params has the size 16 instead of 8",)),
    ],
)  # fmt: skip
def test_declarations_that_changed(after: Interface, found: tuple[str, ...]) -> None:
    changes = list(interface.changes(declared(), after))
    assert len(changes) == len(found)
    assert all(change.startswith(start) for change, start in zip(changes, found, strict=True))


def test_additions_are_listed() -> None:
    after = declared(constants={"FLAG": 2, "NEW": 4})
    assert interface.additions(declared(), after) == ("NEW",)


@pytest.mark.matrix
def test_our_features_only_add(patched_build: TestBuild, stock_build: TestBuild) -> None:
    before, after = interface.read(stock_build.folder), interface.read(patched_build.folder)
    assert list(interface.changes(before, after)) == []
    assert "ggml_backend_load_beside" in interface.additions(before, after)
    assert len(before.functions) > 900 and len(before.types) > 100


def test_a_build_that_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"can't be loaded: .*build\.json"):
        interface.read(tmp_path)


@elf_only
def test_libraries_are_taken_apart(patched_build: TestBuild, tmp_path: Path) -> None:
    core = elf.read(patched_build.lib_dir / "libllama.so")
    assert core is not None
    assert "llama_decode" in core.exports and "ggml_init" not in core.exports
    assert "libggml.so" in core.needed and core.run_paths[0] == "$ORIGIN"
    (tmp_path / "libm.dylib").write_bytes(b"\xcf\xfa\xed\xfe")
    assert elf.read(tmp_path / "libm.dylib") is None
    (tmp_path / "libx.so").write_bytes((patched_build.lib_dir / "libllama.so").read_bytes()[:4096])
    with pytest.raises(BuildError, match="is damaged"):
        elf.read(tmp_path / "libx.so")


@elf_only
def test_a_build_that_belongs_to_this_machine(tmp_path: Path) -> None:
    good = library(tmp_path / "good", HEADER, SOURCE, "-g0", "-Wl,-rpath,$ORIGIN")
    assert list(linkage.faults(good, [tmp_path])) == []
    path = tmp_path / "elsewhere"
    helper = library(path, HEADER, SOURCE.replace("load", "other"))
    (helper / "lib/libx.so").rename(helper / "lib/libhelper.so")
    flags = (f"-L{helper / 'lib'}", "-Wl,--no-as-needed", "-lhelper", f"-Wl,-rpath,{helper / 'lib'}")
    bad = library(tmp_path / "bad", HEADER, SOURCE, "-g0", *flags)
    found = "; ".join(linkage.faults(bad, [tmp_path]))
    for part in ("needs libhelper.so", "looks for libraries in", "holds the path"):
        assert part in found

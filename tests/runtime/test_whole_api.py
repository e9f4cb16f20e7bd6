"""`pyllama.lib` beside the public headers, the export tables and the C compiler.

The headers are read with regular expressions, on purpose not with the generator's parser.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from real_builds import SUFFIX

pytestmark = pytest.mark.matrix

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.M)
_DEPRECATED = re.compile(r"\b\w*DEPRECATED\(")
_FUNCTION = re.compile(r"\b[A-Z]+(?:_[A-Z]+)*_API\b([^;(){}]*?)\b(\w+)\s*\(")
_STRUCT = re.compile(r"^[ \t]*(?:typedef[ \t]+)?struct[ \t]+(\w+)[ \t]*\{", re.M)


def _headers(build: Any) -> dict[str, str]:
    found = {}
    for path in sorted(build.include_dirs[0].glob("*.h")):
        text = _COMMENT.sub("", path.read_text(encoding="utf-8"))
        found[path.name] = _DEPRECATED.sub(" ", _DIRECTIVE.sub("", text))
    return found


@pytest.fixture(scope="module")
def declared(patched_build: Any) -> dict[str, str]:
    """Function name to header, of every header."""
    found = {}
    for header, text in _headers(patched_build).items():
        for match in _FUNCTION.finditer(text):
            if "std::" not in match[1]:
                found[match[2]] = header
    assert len(found) > 800
    return found


@pytest.fixture(scope="module")
def exported(patched_build: Any) -> set[str]:
    """Every function that a built library exports."""
    found = set()
    for path in patched_build.lib_dir.glob("*.so"):
        with path.open("rb") as file:
            for symbol in ELFFile(file).get_section_by_name(".dynsym").iter_symbols():
                if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["type"] == "STT_FUNC":
                    found.add(symbol.name)
    assert {"llama_decode", "ggml_init", "ggml_backend_cpu_init"} <= found
    return found


@pytest.fixture(scope="module")
def bindings(child: Any) -> dict[str, Any]:
    """What a process finds in `pyllama.lib`."""
    code = """
from pyllama import ffi, lib
from pyllama.errors import MissingFunctionError
out = {"missing": {}, "callable": [], "ints": {}, "unbound": lib.unbound()}
for name in dir(lib):
    if name.startswith(("__", "pyllama_")) or name == "unbound":
        continue
    value = getattr(lib, name)
    if isinstance(value, int):
        out["ints"][name] = int(value)
    elif callable(value) or type(value).__name__ == "FFILibrary":
        out["callable"].append(name)
        if value.__class__ is (lambda: 0).__class__:
            try:
                value()
            except MissingFunctionError as error:
                out["missing"][name] = str(error)
out["structs"] = {}
for name in json.loads(sys.argv[1]):
    try:
        kind = ffi.typeof(f"struct {name}")
        fields = {f: d.offset for f, d in kind.fields if d.bitsize < 0 and f}
        out["structs"][name] = [ffi.sizeof(kind), fields]
    except (ffi.error, ValueError, TypeError):
        pass
print(json.dumps(out))
"""
    structs = [name for text in _headers_of_child(child) for name in _STRUCT.findall(text)]
    found: dict[str, Any] = json.loads(child(code, json.dumps(structs)).stdout)
    return found


def _headers_of_child(child: Any) -> list[str]:
    code = "print(json.dumps([str(f) for f in pyllama.build_info().include_dirs]))"
    (folder,) = json.loads(child(code).stdout)
    return [_COMMENT.sub("", path.read_text(encoding="utf-8")) for path in Path(folder).glob("*.h")]


def test_every_declared_function_is_in_lib_or_listed(
    declared: dict[str, str], bindings: dict[str, Any]
) -> None:
    there, unbound = set(bindings["callable"]), bindings["unbound"]
    lost = {n: h for n, h in declared.items() if n not in there and n not in unbound and h not in unbound}
    assert not lost
    assert all(len(reason) > 10 for reason in unbound.values())
    assert not there & set(unbound), "listed as unbound and bound"


def test_every_exported_declared_function_has_an_address(
    declared: dict[str, str], exported: set[str], bindings: dict[str, Any]
) -> None:
    missing, unbound = bindings["missing"], bindings["unbound"]
    assert not {name for name in set(declared) & exported if name in missing}
    bound = set(bindings["callable"]) - set(missing)
    assert {
        n for n, h in declared.items() if n in exported and n not in unbound and h not in unbound
    } <= bound


def test_missing_functions_are_in_no_library(exported: set[str], bindings: dict[str, Any]) -> None:
    missing = bindings["missing"]
    assert missing, "this build has no CUDA, so there have to be some"
    assert not set(missing) & exported
    for name, message in missing.items():
        assert message.startswith(f"{name} is not available: "), message
        assert "\n" not in message


def _compiled(source: str, include: Path, folder: Path) -> str:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler")
    (folder / "p.c").write_text(source)
    command = [compiler, "-w", f"-I{include}", str(folder / "p.c"), "-o", str(folder / "p")]
    subprocess.run(command, check=True, timeout=120)
    return subprocess.run([folder / "p"], check=True, capture_output=True, text=True).stdout


def _source(build: Any, skipped: set[str], lines: list[str]) -> str:
    names = [path.name for path in sorted(build.include_dirs[0].glob("*.h")) if path.name not in skipped]
    includes = "".join(f'#include "{name}"\n' for name in ["llama.h", *names])
    body = "\n".join(lines)
    return f"#include <stdio.h>\n#include <stddef.h>\n{includes}int main(void) {{\n{body}\nreturn 0; }}\n"


def test_constants_are_those_of_the_compiler(
    patched_build: Any, bindings: dict[str, Any], tmp_path: Path
) -> None:
    ints = bindings["ints"]
    assert {"LLAMA_DEFAULT_SEED", "GGML_TYPE_Q4_1", "GGML_MAX_DIMS", "LLAMA_VOCAB_TYPE_BPE"} <= set(ints)
    lines = [f'printf("{name} %lld\\n", (long long) ({name}));' for name in ints]
    text = _compiled(
        _source(patched_build, set(bindings["unbound"]), lines), patched_build.include_dirs[0], tmp_path
    )
    real = {name: int(value) for name, value in (line.split() for line in text.splitlines())}
    mask = 2**64 - 1
    assert {n: v & mask for n, v in real.items()} == {n: v & mask for n, v in ints.items()}
    assert len(real) > 300


def test_structs_are_those_of_the_compiler(
    patched_build: Any, bindings: dict[str, Any], tmp_path: Path
) -> None:
    structs = bindings["structs"]
    assert {"llama_context_params", "llama_model_params", "llama_batch", "ggml_tensor"} <= set(structs)
    lines = []
    for name, (_, fields) in structs.items():
        lines.append(f'printf("{name} . %zu\\n", sizeof(struct {name}));')
        lines += [f'printf("{name} {f} %zu\\n", offsetof(struct {name}, {f}));' for f in fields]
    text = _compiled(
        _source(patched_build, set(bindings["unbound"]), lines), patched_build.include_dirs[0], tmp_path
    )
    real: dict[str, list[Any]] = {name: [0, {}] for name in structs}
    for line in text.splitlines():
        name, field, number = line.split()
        if field == ".":
            real[name][0] = int(number)
        else:
            real[name][1][field] = int(number)
    assert real == structs
    assert len(real) > 15


def test_call_from_the_command_line(child: Any, patched_build: Any) -> None:
    told = int(child("print(pyllama.lib.llama_max_devices())").stdout)
    code = f"""
import ctypes
real = ctypes.CDLL({str(patched_build.lib_dir / f"libllama{SUFFIX}")!r})
real.llama_max_devices.restype = ctypes.c_size_t
print(real.llama_max_devices())
"""
    assert told == int(child(code).stdout) > 0


def test_unknown_name_is_an_attribute_error(child: Any) -> None:
    code = """
try:
    pyllama.lib.llama_no_such_function
except AttributeError as error:
    print(error)
"""
    assert "llama_no_such_function" in child(code).stdout

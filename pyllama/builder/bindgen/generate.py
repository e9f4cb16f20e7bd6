"""Generate and compile the bindings of one build."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cffi
import cffi.recompiler

from ...errors import BindingsError
from . import csource, python_headers, stubs
from .fingerprint import CSRC, LIMITED_API, free_threaded
from .headers import Exceptions, read

MODULE = "_pyllama"

# Beside the shim's header: what csource puts in front of cffi's C, and what Python gives to C.
_OWN = """
size_t pyllama_table_size(void);
const char *pyllama_table_name(size_t i);
bool pyllama_table_bound(size_t i);
size_t pyllama_table_bind(void *library);
const char *pyllama_module_identity(void);
extern "Python" void pyllama_on_log(int level, const char *line);
extern "Python" bool pyllama_on_progress(float progress, void *user_data);
"""


@dataclass(frozen=True)
class Bindings:
    """What was generated."""

    module: Path
    stubs: Path
    declared: Path
    functions: int


def generate(include: Path, out: Path, compiler: str, identity: str) -> Bindings:
    """Write the module, its stubs and the list of what is declared into `out`.

    `include` holds the public headers, `identity` is what the libraries of this build say
    about themselves. Raises BindingsError when a header or the C compiler objects.
    """
    exceptions = Exceptions.read()
    api = read(include, compiler, exceptions)
    functions = csource.bound_functions(api, exceptions)
    out.mkdir(parents=True, exist_ok=True)

    ffi = cffi.FFI()
    ffi.cdef(csource.cdef(api, exceptions) + _shim() + _OWN, override=True)
    preamble = csource.preamble(api, functions, identity)
    module = out / _module_filename()
    with tempfile.TemporaryDirectory(prefix="pyllama-bindgen-") as folder:
        source = Path(folder) / f"{MODULE}.c"
        cffi.recompiler.make_c_source(ffi, MODULE, preamble, str(source))
        _compile(source, include, module, compiler)

    stub = out / "lib.pyi"
    stub.write_text(stubs.stubs(api, functions, exceptions), encoding="utf-8")
    declared = out / "declared.json"
    listed = {
        "functions": {f.name: f.header for f in api.functions},
        "unbound": exceptions.functions,
        "undefined": exceptions.undefined,
        "headers": exceptions.headers,
        "macros": [*api.numbers, *api.strings],
    }
    declared.write_text(json.dumps(listed, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return Bindings(module, stub, declared, len(functions))


def _shim() -> str:
    """Return the declarations of the shim's header."""
    text = (CSRC / "pyllama_shim.h").read_text(encoding="utf-8")
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(("#", "//")))


def _module_filename() -> str:
    if free_threaded():  # has no stable ABI yet
        return MODULE + str(sysconfig.get_config_var("EXT_SUFFIX"))
    return MODULE + (".pyd" if sys.platform == "win32" else ".abi3.so")


def _compile(source: Path, include: Path, module: Path, compiler: str) -> None:
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",  # the wrappers are thin: more costs seconds here and saves nothing there
        "-fvisibility=hidden",
        "-w",
        f"-ffile-prefix-map={source.parent}=.",
        f"-ffile-prefix-map={CSRC}=.",
        f"-ffile-prefix-map={include}=.",
        f"-I{python_headers.folder()}",
        f"-I{include}",
        f"-I{CSRC}",
        str(source),
        str(CSRC / "pyllama_shim.c"),
        "-o",
        str(module),
    ]
    if not free_threaded():
        command.insert(1, f"-DPy_LIMITED_API={LIMITED_API}")
    if sys.platform == "darwin":
        command += ["-undefined", "dynamic_lookup"]
    elif sys.platform.startswith("linux"):
        command += ["-ldl", "-Wl,--build-id=sha1", "-s"]
    elif sys.platform == "win32":  # where a library has to know whose symbols it takes
        python = f"python3{sys.version_info.minor}t" if free_threaded() else "python3"
        command += [f"-L{Path(sys.base_prefix) / 'libs'}", f"-l{python}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        raise BindingsError(f"the bindings do not compile: {(errors or [done.stderr[-400:]])[0]}")

"""Load the native libraries of one build and fill the function table of the cffi module.

Libraries are opened by absolute path, innermost first, and each must say that it was built
from the same patched tree as the module. A library of another llama.cpp that is in the
process already is refused instead of being mixed in.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import json
import os
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import LoadError, MissingFunctionError
from . import companions
from .installed import BuildInfo, build_info

_MODULE = "pyllama.native._pyllama"
_PREFIX = "" if sys.platform == "win32" else "lib"
_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
# A plug-in is a CMake MODULE, which keeps `.so` on macOS.
_PLUGIN_SUFFIX = ".dll" if sys.platform == "win32" else ".so"
_CORE = ("ggml-base", "ggml", "llama")
_OPTIONAL = ("mtmd",)
_CPU = "ggml-cpu"

# What gives a build the functions of a header that its core does not have.
_ADVICE = {
    "mtmd.h": "run `pyllama build --tools mtmd` and set PYLLAMA_BUILD to the folder that it prints",
    "mtmd-helper.h": "run `pyllama build --tools mtmd` and set PYLLAMA_BUILD to the folder that it prints",
    "ggml-rpc.h": "run `pyllama build --backend rpc` and set PYLLAMA_BUILD to the folder that it prints",
}
_CORE_HEADERS = ("llama.h", "ggml.h", "gguf.h", "ggml-alloc.h", "ggml-backend.h", "ggml-cpu.h", "ggml-opt.h")


@dataclass(frozen=True)
class Library:
    """The loaded libraries: `raw` is cffi's lib, `missing` are names without an address."""

    build: BuildInfo
    ffi: Any
    raw: Any
    declared: dict[str, str]
    undefined: dict[str, str]
    missing: frozenset[str]
    skipped: dict[str, str]
    """Backends that are there and not used, with the reason."""
    identity: str

    def register(self, plugin: Path) -> None:
        """Load one more plug-in; LoadError when it does not fit or does not load."""
        _register_plugin(self.ffi, self.raw, plugin, self.identity)

    def open(self, name: str) -> Any:
        """Open one more library of the build, `name` without prefix and suffix, and return its handle.

        Raises LoadError when it is missing or does not belong to this build.
        """
        path = self.build.lib_dir / f"{_PREFIX}{name}{_SUFFIX}"
        handle = _open(self.ffi, self.raw, path)
        _check_identity(self.ffi, self.raw, handle, self.identity, path)
        return handle

    def holds(self, name: str) -> bool:
        """Say whether the build has a library of that name."""
        return (self.build.lib_dir / f"{_PREFIX}{name}{_SUFFIX}").is_file()

    def resolve(self, name: str) -> Any:
        """Return a function or constant of the C API.

        A function that no loaded library has is returned as one that raises
        MissingFunctionError. Raises AttributeError for a name that the headers do not have.
        """
        if name in self.missing:
            return _missing(name, self._reason(name))
        return getattr(self.raw, name)

    def _reason(self, name: str) -> str:
        if name in self.undefined:
            return self.undefined[name]
        header = self.declared[name]
        advice = _ADVICE.get(header)
        if advice is not None:
            return f"it is declared in {header}; {advice}"
        if header in _CORE_HEADERS:
            return f"it is declared in {header}, but no library of pin {self.build.pin} has it"
        return f"it belongs to a backend ({header}) that this build does not have"


def _missing(name: str, reason: str) -> Callable[..., Any]:
    def missing(*_: Any) -> Any:
        raise MissingFunctionError(f"{name} is not available: {reason}")

    missing.__name__ = missing.__qualname__ = name
    missing.__doc__ = f"Not available: {reason}."
    return missing


@functools.cache
def load() -> Library:
    """Load everything, once per process.

    Raises LoadError when a file is missing or belongs to another build, or when this machine
    cannot run the CPU plug-in.
    """
    build = build_info()
    module = _import_module(build)
    ffi, raw = module.ffi, module.lib
    identity = ffi.string(raw.pyllama_module_identity()).decode()
    _check_json(build, identity)

    from . import backends, log

    _check_origin(ffi, raw, ffi.NULL, build.lib_dir)
    handles = {}
    for name in _CORE:
        try:
            handles[name] = _open(ffi, raw, build.lib_dir / f"{_PREFIX}{name}{_SUFFIX}")
        except LoadError:  # one that is there privately has the name that ours looks for
            _check_mapped(build.lib_dir)
            raise
        _check_identity(ffi, raw, handles[name], identity, build.lib_dir / f"{_PREFIX}{name}{_SUFFIX}")
    _check_origin(ffi, raw, handles["llama"], build.lib_dir)
    raw.pyllama_table_bind(handles["llama"])
    log.install(ffi, raw)
    _register_cpu(ffi, raw, build, identity)
    skipped = backends.register(build, lambda path: _register_plugin(ffi, raw, path, identity))
    for name in _OPTIONAL:
        path = build.lib_dir / f"{_PREFIX}{name}{_SUFFIX}"
        if path.is_file():
            raw.pyllama_table_bind(_open(ffi, raw, path))
    raw.llama_backend_init()

    declared = _declared(build)
    names = [ffi.string(raw.pyllama_table_name(i)).decode() for i in range(raw.pyllama_table_size())]
    missing = frozenset(name for i, name in enumerate(names) if not raw.pyllama_table_bound(i))
    return Library(build, ffi, raw, declared["functions"], declared["undefined"], missing, skipped, identity)


def unbound() -> dict[str, str]:
    """Return what the public headers declare and `pyllama.lib` does not have, with the reason.

    A name is that of a function, or of a header of which nothing is bound.
    """
    table = _declared(build_info())
    return {**table["headers"], **table["unbound"]}


def _declared(build: BuildInfo) -> dict[str, dict[str, str]]:
    path = build.folder / "python" / "declared.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {name: table[name] for name in ("functions", "headers", "unbound", "undefined")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{path} cannot be read ({error}): install pyllama again") from error


def _import_module(build: BuildInfo) -> ModuleType:
    found = sorted((build.folder / "python").glob("_pyllama*.[sp][oy]*"))
    if not found:
        raise LoadError(f"no bindings in {build.folder / 'python'}: install pyllama again")
    loader = importlib.machinery.ExtensionFileLoader(_MODULE, str(found[0]))
    spec = importlib.util.spec_from_file_location(_MODULE, found[0], loader=loader)
    assert spec is not None
    _check_whole(found[0])
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise LoadError(f"{found[0]} cannot be imported ({error}): install pyllama again") from error
    sys.modules[_MODULE] = module
    return module


def _check_whole(path: Path) -> None:
    """Refuse a file that is missing or was cut short: the system would crash while loading it."""
    try:
        with path.open("rb") as file:
            header = file.read(64)
        size = path.stat().st_size
    except OSError as error:
        raise LoadError(f"{path} is missing ({error.strerror}): install pyllama again") from error
    if header[:6] == b"\x7fELF\2\1" and len(header) == 64:  # 64 bits, little endian
        (table,) = struct.unpack_from("<Q", header, 40)
        entry, entries = struct.unpack_from("<HH", header, 58)
        if size < table + entry * entries:  # the sections are listed at the end
            raise LoadError(f"{path} is cut short, it has only {size} bytes: install pyllama again")


def _open(ffi: Any, raw: Any, path: Path) -> Any:
    _check_whole(path)
    handle, reason = _dlopen(ffi, raw, path)
    if handle == ffi.NULL:
        raise LoadError(f"{path} cannot be loaded: {reason}")
    return handle


def _dlopen(ffi: Any, raw: Any, path: Path, opened: frozenset[Path] = frozenset()) -> tuple[Any, str]:
    """Return a handle, or NULL and the reason; what only NVIDIA's packages have is opened before."""
    error = ffi.new("char[]", 512)
    handle = raw.pyllama_open(os.fsencode(path), error, 512)
    reason = ffi.string(error).decode(errors="replace")
    lacking = companions.packaged(reason) if handle == ffi.NULL else None
    if lacking is None or lacking in opened:
        return handle, reason
    opened |= {lacking}
    _dlopen(ffi, raw, lacking, opened)
    return _dlopen(ffi, raw, path, opened)


def _check_json(build: BuildInfo, identity: str) -> None:
    words = json.loads(identity)
    if (words["pin"], words["key"]) != (build.pin, build.key):
        raise LoadError(
            f"the module in {build.folder} was built for pin {words['pin']} ({words['key'][:12]}), its "
            f"build.json says {build.pin} ({build.key[:12]}): install pyllama again"
        )


def _check_identity(ffi: Any, raw: Any, handle: Any, identity: str, path: Path) -> None:
    said = raw.pyllama_identity_of(handle)
    # A lookup goes on in what the library depends on: the answer has to be its own.
    if said == ffi.NULL or _origin(ffi, raw, handle, b"pyllama_identity") != path.resolve():
        raise LoadError(f"{path} was not built by pyllama, so its layout is not known: install pyllama again")
    found = ffi.string(said).decode()
    if found != identity:
        theirs, ours = json.loads(found), json.loads(identity)
        raise LoadError(
            f"{path} belongs to another build: it is pin {theirs['pin']} ({theirs['key'][:12]}), the module "
            f"is {ours['pin']} ({ours['key'][:12]}); install pyllama again"
        )


def _check_origin(ffi: Any, raw: Any, llama: Any, lib_dir: Path) -> None:
    """Refuse when libllama got its ggml from somewhere else, which shares the name only.

    Without a library, look among what the whole process shares: it would go before ours.
    """
    for symbol in (b"ggml_backend_dev_count", b"ggml_init", b"llama_backend_init"):
        found = _origin(ffi, raw, llama, symbol)
        if found is not None and found.parent != lib_dir.resolve():
            raise _another(found)


def _check_mapped(lib_dir: Path) -> None:
    """Refuse when a core library of somewhere else is in the process; only Linux can tell."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for path in {Path(line.split(maxsplit=5)[5]) for line in lines if "/" in line}:
        ours = any(path.name.startswith(f"{_PREFIX}{name}{_SUFFIX}") for name in _CORE)
        if ours and path.parent != lib_dir.resolve():
            raise _another(path)


def _another(path: Path) -> LoadError:
    return LoadError(
        f"another llama.cpp is in this process already ({path}): import pyllama first, in a "
        "process of its own"
    )


def _origin(ffi: Any, raw: Any, library: Any, symbol: bytes) -> Path | None:
    """Return the file that a library's symbol comes from."""
    place = ffi.new("char[]", 4096)
    address = raw.pyllama_symbol(library, symbol)
    if address == ffi.NULL or not raw.pyllama_origin(address, place, 4096):
        return None
    return Path(os.fsdecode(ffi.string(place))).resolve()


def _register_cpu(ffi: Any, raw: Any, build: BuildInfo, identity: str) -> None:
    """Register the CPU plug-in that fits this machine best, by upstream's own score."""
    best, best_score = None, 0
    for path in sorted(build.lib_dir.glob(f"{_PREFIX}{_CPU}*{_PLUGIN_SUFFIX}")):
        score = abs(raw.pyllama_score(_open(ffi, raw, path)))
        if score > best_score:
            best, best_score = path, score
    if best is None:
        raise LoadError(
            f"no CPU plug-in in {build.lib_dir} runs on this machine (it was built for {build.cpu}): "
            "build pyllama here"
        )
    _register_plugin(ffi, raw, best, identity)


def _register_plugin(ffi: Any, raw: Any, path: Path, identity: str) -> None:
    from . import log

    handle = _open(ffi, raw, path)
    _check_identity(ffi, raw, handle, identity, path)
    with log.collected() as lines:
        if raw.ggml_backend_load(os.fsencode(path)) == ffi.NULL:
            raise LoadError(f"the plug-in {path} does not load: {lines() or 'it found nothing to work with'}")
    raw.pyllama_table_bind(handle)

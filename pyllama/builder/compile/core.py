"""Compile a patched tree with CMake and Ninja, and collect what came out.

One compilation folder per patched tree and flavour lies beside the tree; it is kept, so a
change of features or of a later target compiles only what is new.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from ...errors import BuildError
from ..plan import Plan
from ..progress import Reporter
from ..stack.apply import PatchedTree
from . import cpu, ninja
from .toolchain import Toolchain

# Configured always, so that any of upstream's programs can be built later; compiled on demand.
_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "ON",
    "CMAKE_PLATFORM_NO_VERSIONED_SONAME": "ON",
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
    "GGML_BACKEND_DL": "ON",
    "GGML_NATIVE": "OFF",
    "GGML_CCACHE": "OFF",
    "LLAMA_BUILD_COMMON": "ON",
    "LLAMA_BUILD_TOOLS": "ON",
    "LLAMA_BUILD_EXAMPLES": "ON",
    "LLAMA_BUILD_SERVER": "ON",
    "LLAMA_BUILD_MTMD": "ON",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_BUILD_WEBUI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_CURL": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_NUMBER": "0",
}
_FLAVOURS = {
    "release": {},
    "asan": {"LLAMA_SANITIZE_ADDRESS": "ON", "LLAMA_SANITIZE_UNDEFINED": "ON"},
}
_CORE_TARGETS = ("llama", "ggml", "ggml-base")
_IDENTITY = """
#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
EXPORT const char *pyllama_identity(void);
const char *pyllama_identity(void) {{ return "{identity}"; }}
"""


@dataclass(frozen=True)
class Core:
    """What the core was compiled with."""

    variant: str
    options: dict[str, str]


def compile_core(
    patched: PatchedTree, wanted: Plan, tools: Toolchain, out: Path, identity: str, reporter: Reporter
) -> Core:
    """Compile core and plug-ins, and collect libraries and public headers in `out`."""
    variant = cpu.variant_for_here(patched.folder)
    options = _options(wanted, variant)
    targets = [*_CORE_TARGETS, *(row.target for row in wanted.backends)]
    names = ["llama", "ggml", "ggml-base", *(row.library for row in wanted.backends)]
    with _alone_in(_folder(patched, wanted)) as folder:
        _configure(patched, folder, options, wanted, tools, identity, reporter)
        _compile(folder, targets, tools, reporter)
        _collect_libraries(folder, names, out / "lib")
    _collect_headers(patched.folder, out / "include")
    _collect_licenses(patched.folder, out / "licenses")
    return Core(variant.name, options)


def add_targets(
    patched: PatchedTree,
    wanted: Plan,
    tools: Toolchain,
    out: Path,
    targets: list[str],
    reporter: Reporter,
) -> None:
    """Compile more of upstream's targets and add what they give to a finished build."""
    variant = cpu.variant_for_here(patched.folder)
    identity = json.loads((out / "build.json").read_text(encoding="utf-8"))["identity"]
    with _alone_in(_folder(patched, wanted)) as folder:
        _configure(patched, folder, _options(wanted, variant), wanted, tools, identity, reporter)
        before = _products(folder)
        _compile(folder, targets, tools, reporter)
        # A target that was compiled earlier is not new: take what bears its name as well.
        named = {p for p in before if p.stem.removeprefix("lib") in targets}
        for product in sorted(_products(folder) - before | named):
            library = product.suffix in (".so", ".dylib", ".dll")
            _add(product, out / ("lib" if library else "bin"))


def _add(product: Path, place: Path) -> None:
    """Put a file into a finished build, whole or not at all; one that is there stays."""
    if (place / product.name).exists():
        return
    place.mkdir(exist_ok=True)
    fresh = place / f".{product.name}.new"
    shutil.copy2(product, fresh)
    os.replace(fresh, place / product.name)


@contextmanager
def _alone_in(folder: Path) -> Iterator[Path]:
    """Hold the lock of a compilation folder: builds with other compiler flags share it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        yield folder


def _folder(patched: PatchedTree, wanted: Plan) -> Path:
    suffix = "" if wanted.flavour == "release" else f"-{wanted.flavour}"
    return patched.folder.parent / f"{'-'.join(row.name for row in wanted.backends)}{suffix}"


def _options(wanted: Plan, variant: cpu.CpuVariant) -> dict[str, str]:
    options = {**_OPTIONS, **_FLAVOURS[wanted.flavour], **dict(variant.options)}
    for row in wanted.backends:
        options.update(row.options)
    options["LLAMA_BUILD_COMMIT"] = wanted.pin.commit[:9]
    return options


def _configure(
    patched: PatchedTree,
    folder: Path,
    options: dict[str, str],
    wanted: Plan,
    tools: Toolchain,
    identity: str,
    reporter: Reporter,
) -> None:
    """Run CMake when the folder was not configured with just these options."""
    origin = "@loader_path" if sys.platform == "darwin" else "$ORIGIN"
    prefix_map = f"-ffile-prefix-map={patched.folder}=. -ffile-prefix-map={folder}=."
    settings = {
        **options,
        "CMAKE_C_COMPILER": tools.cc,
        "CMAKE_CXX_COMPILER": tools.cxx,
        "CMAKE_MAKE_PROGRAM": tools.ninja,
        "CMAKE_INSTALL_RPATH": f"{origin};{origin}/../lib",
        "CMAKE_C_FLAGS": f"{os.environ.get('CFLAGS', '')} {prefix_map}".strip(),
        "CMAKE_CXX_FLAGS": f"{os.environ.get('CXXFLAGS', '')} {prefix_map}".strip(),
        "CMAKE_PROJECT_INCLUDE": str(Path(__file__).parent / "identity.cmake"),
        "PYLLAMA_IDENTITY_SOURCE": str(folder / "pyllama-identity.c"),
        "PYLLAMA_IDENTITY_TARGETS": ";".join([*_CORE_TARGETS, "mtmd", *(b.target for b in wanted.backends)]),
    }
    if tools.launcher:
        settings["CMAKE_C_COMPILER_LAUNCHER"] = tools.launcher
        settings["CMAKE_CXX_COMPILER_LAUNCHER"] = tools.launcher
    stamp = folder / "pyllama-configured"
    want = hashlib.sha256(json.dumps([settings, tools.identity], sort_keys=True).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == want:
        return
    with reporter.stage("configure") as stage:
        # Options that fell away would live on in CMake's cache.
        for name in ("CMakeCache.txt", "pyllama-configured"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "CMakeFiles", ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        _write_identity(folder / "pyllama-identity.c", identity)
        command = [tools.cmake, "-G", "Ninja", "-S", str(patched.folder), "-B", str(folder)]
        command += [f"-D{name}={value}" for name, value in settings.items()]
        ninja.run(command, folder / "pyllama-configure.log", stage, "CMake's configuration")
        stamp.write_text(want, encoding="utf-8")
        stage.note = f"CPU variant {cpu.variant_for_here(patched.folder).name}"


def _write_identity(path: Path, identity: str) -> None:
    escaped = identity.replace("\\", "\\\\").replace('"', '\\"')
    text = _IDENTITY.format(identity=escaped)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _compile(folder: Path, targets: list[str], tools: Toolchain, reporter: Reporter) -> None:
    with reporter.stage("compile") as stage:
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
        command = [tools.ninja, "-C", str(folder), "-j", jobs, *targets]
        ninja.run(command, folder / "pyllama-compile.log", stage, "compiling")
        stage.note = ", ".join(targets)


def _products(folder: Path) -> set[Path]:
    return {p for p in (folder / "bin").glob("*") if p.is_file()}


def _collect_headers(tree: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    mtmd = tree / "tools" / "mtmd"
    found = [*(tree / "include").glob("*.h"), *(tree / "ggml" / "include").glob("*.h")]
    found += [mtmd / "mtmd.h", mtmd / "mtmd-helper.h"]
    for header in found:
        shutil.copyfile(header, out / header.name)


def _collect_licenses(tree: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(tree / "LICENSE", out / "LICENSE-llama.cpp")
    for text in (tree / "licenses").glob("LICENSE-*"):
        shutil.copyfile(text, out / text.name)


def _collect_libraries(folder: Path, names: list[str], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    products = _products(folder)
    for name in names:
        stems = (f"lib{name}", name)
        matches = [p for p in products if p.stem in stems and p.suffix in (".so", ".dylib", ".dll")]
        if not matches:
            raise BuildError(f"the build gave no library {name!r}: see {folder / 'pyllama-compile.log'}")
        for match in matches:
            shutil.copy2(match, out / match.name)

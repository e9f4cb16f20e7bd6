"""Run CMake over a patched tree, once per compilation folder and choice of settings."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from ..paths import Paths
from ..plan import Plan
from ..progress import Reporter
from ..stack.apply import PatchedTree
from . import CHAT, cpu, flags, needs, ninja
from .backends import Backend
from .made_with import made_with
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
    # For abidiff, which needs the types: no code is optimised, no macro differs from a release.
    "abi": {f"CMAKE_{language}_FLAGS_RELEASE": "-O0 -g -DNDEBUG" for language in ("C", "CXX")},
}
CORE_TARGETS = ("llama", "ggml", "ggml-base")
CHAT_TARGET = "pyllama-chat"
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
class Configured:
    """A compilation folder in which Ninja can run."""

    folder: Path
    variant: str
    options: dict[str, str]


@contextmanager
def configured(
    patched: PatchedTree, wanted: Plan, paths: Paths, tools: Toolchain, identity: str, reporter: Reporter
) -> Iterator[Configured]:
    """Configure the compilation folder of a tree and hold it: no other build runs there meanwhile.

    It lies beside the tree and is kept. All choices of backends share it, as none changes what the
    core or another backend is compiled with: one more backend, or target, compiles only what is new.
    """
    every = any(row.name == "cpu-all" for row in wanted.backends)
    variant = cpu.EVERY if every else cpu.variant_for_here(patched.folder)
    options = _options(wanted, variant)
    met = needs.meet(wanted.backends, tools.compilers, paths, reporter)
    folder = patched.folder.parent / wanted.flavour
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        settings = _settings(patched, folder, options, met, wanted, tools)
        _configure(patched, folder, settings, tools, identity, reporter, variant.name, wanted.backends)
        yield Configured(folder, variant.name, options)


def _options(wanted: Plan, variant: cpu.CpuVariant) -> dict[str, str]:
    options = {**_OPTIONS, **_FLAVOURS[wanted.flavour], **dict(variant.options)}
    for row in wanted.backends:
        options.update(row.options)
    options["LLAMA_BUILD_COMMIT"] = wanted.pin.commit[:9]
    return options


def _settings(
    patched: PatchedTree,
    folder: Path,
    options: dict[str, str],
    met: dict[str, str],
    wanted: Plan,
    tools: Toolchain,
) -> dict[str, str]:
    """Return the options and all that depends on this machine's folders and programs."""
    origin = "@loader_path" if sys.platform == "darwin" else "$ORIGIN"
    maps = flags.prefix_maps(patched.folder, folder)
    patterns = [
        *CORE_TARGETS,
        CHAT_TARGET,
        "mtmd",
        *(row.target.replace("*", ".*") for row in wanted.backends),
    ]
    settings = {
        **options,
        **met,
        "CMAKE_C_COMPILER": tools.compilers.cc,
        "CMAKE_CXX_COMPILER": tools.compilers.cxx,
        "CMAKE_MAKE_PROGRAM": tools.ninja,
        "CMAKE_INSTALL_RPATH": f"{origin};{origin}/../lib",
        "CMAKE_C_FLAGS": flags.line(maps, os.environ.get("CFLAGS", "")),
        "CMAKE_CXX_FLAGS": flags.line(maps, os.environ.get("CXXFLAGS", "")),
        "CMAKE_PROJECT_llama.cpp_INCLUDE": str(Path(__file__).parent / "identity.cmake"),
        "PYLLAMA_CHAT_SOURCE": str(CHAT),
        "PYLLAMA_IDENTITY_SOURCE": str(folder / "pyllama-identity.c"),
        "PYLLAMA_IDENTITY_TARGETS": ";".join(patterns),
    }
    if "GGML_CUDA" in options:
        folders = [met["PYLLAMA_CUDA_LIBRARIES"]] if "PYLLAMA_CUDA_LIBRARIES" in met else []
        settings["CMAKE_CUDA_FLAGS"] = flags.nvcc_line(maps, folders)
    if tools.launcher:
        settings["CMAKE_C_COMPILER_LAUNCHER"] = tools.launcher
        settings["CMAKE_CXX_COMPILER_LAUNCHER"] = tools.launcher
        settings["CMAKE_CUDA_COMPILER_LAUNCHER"] = tools.launcher
    return settings


def _configure(
    patched: PatchedTree,
    folder: Path,
    settings: dict[str, str],
    tools: Toolchain,
    identity: str,
    reporter: Reporter,
    variant: str,
    rows: Iterable[Backend],
) -> None:
    given = [os.environ.get(name, "") for name in ("CFLAGS", "CXXFLAGS", "LDFLAGS")]
    # Ninja compiles anew what is called in another way, but sees neither a compiler that was upgraded
    # in place nor linker flags from the environment.
    objects = _hash([given, tools.compilers.identity])
    tools_of = {row.target: made_with(row, tools.compilers) for row in rows if row.needs}
    call = _hash([settings, objects, tools_of])
    stamp = folder / "pyllama-configured"
    held = stamp.read_text(encoding="utf-8").split() if stamp.is_file() else []
    if held == [objects, call]:
        return
    with reporter.stage("configure") as stage:
        if held[:1] != [objects]:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        stamp.write_text(f"{objects}\n", encoding="utf-8")  # they fit even if CMake does not come to its end
        for target, made in tools_of.items():
            _start_anew_with(_hash(made), folder / "ggml" / "src" / target)
        (folder / "CMakeCache.txt").unlink(missing_ok=True)  # options that fell away would live on in it
        _write_identity(folder / "pyllama-identity.c", identity)
        command = [tools.cmake, "-G", "Ninja", "-S", str(patched.folder), "-B", str(folder)]
        command += [f"-D{name}={value}" for name, value in settings.items()]
        ninja.run(command, folder / "pyllama-configure.log", stage, "CMake's configuration")
        stamp.write_text(f"{objects}\n{call}\n", encoding="utf-8")
        generic = " (generic: no CPU options are known for this machine)" if variant == cpu.GENERIC else ""
        stage.note = f"CPU variant {variant}{generic}"


def _start_anew_with(tools: str, folder: Path) -> None:
    """Remove a plug-in's objects that other tools made; the core's, and other plug-ins', stay."""
    stamp = folder / "pyllama-made-with"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != tools:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        stamp.write_text(tools, encoding="utf-8")


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write_identity(path: Path, identity: str) -> None:
    escaped = identity.replace("\\", "\\\\").replace('"', '\\"')
    text = _IDENTITY.format(identity=escaped)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")

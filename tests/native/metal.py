"""Compiles ggml's Metal plug-in of pin 2026-05 without a Mac.

clang, GNUstep's Foundation and ``metal_stubs``: headers with what the plug-in uses of Metal, and a device in
host memory behind them. Everything but the kernels is the plug-in's own code.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Build

STUBS = Path(__file__).parent / "metal_stubs"
PIN = "2026-05"
NEEDED = "clang libgnustep-base-dev libblocksruntime-dev"
# ggml-impl.h defines static functions that not everybody uses.
WARNINGS = ["-Wall", "-Wextra", "-Wcast-qual", "-Wshadow", "-Wno-unused-function", "-Werror"]


def sources(build: Build) -> Path:
    """The folder of the plug-in's sources."""
    return build.tree / "ggml/src/ggml-metal"


def _objc_headers() -> Path | None:
    """GCC's Objective-C headers, which clang does not look for."""
    if not shutil.which("gcc"):
        return None
    done = subprocess.run(["gcc", "-print-file-name=include"], capture_output=True, text=True, check=True)
    found = Path(done.stdout.strip()) / "objc"
    return found if (found / "objc.h").is_file() else None


def objc(build: Build, folder: Path, runtime: str) -> list[str]:
    """clang's command for a file of Objective-C; skips the test where something is not installed.

    `folder` takes a link to GCC's Objective-C headers alone: those beside them are not for clang.
    """
    headers = _objc_headers()
    gnustep = shutil.which("gnustep-config")
    if not shutil.which("clang") or headers is None or gnustep is None:
        pytest.skip(f"Metal's sources cannot be compiled here: install {NEEDED} (Debian's names)")
    link = folder / "objc-headers"
    if not link.exists():
        link.mkdir()
        (link / "objc").symlink_to(headers)
    done = subprocess.run(
        [gnustep, "--variable=GNUSTEP_SYSTEM_HEADERS"], capture_output=True, text=True, check=True
    )
    return [
        *("clang", "-x", "objective-c", "-std=gnu11", f"-fobjc-runtime={runtime}", "-fblocks"),
        *("-fexceptions", "-fobjc-exceptions", "-fconstant-string-class=NSConstantString"),
        *("-DGNUSTEP", "-DGNUSTEP_BASE_LIBRARY=1", "-DGNU_RUNTIME=1", "-D_NATIVE_OBJC_EXCEPTIONS"),
        *("-isystem", done.stdout.strip(), "-isystem", str(link)),
        *includes(build),
        *WARNINGS,
    ]


def includes(build: Build) -> list[str]:
    """What both languages are told."""
    defines = ("GGML_BACKEND_DL", "GGML_BACKEND_SHARED", "GGML_BACKEND_BUILD", "GGML_SHARED", "_GNU_SOURCE")
    folders = (STUBS, sources(build), build.tree / "ggml/include", build.tree / "ggml/src")
    return [*(f"-D{name}" for name in defines), *(f"-I{path}" for path in folders)]


def _runnable(source: Path, folder: Path) -> Path:
    """The source, without ``array[i]`` on an object, which GCC's runtime, the only one in Debian, lacks."""
    copy = folder / source.name
    text = source.read_text(encoding="utf-8")
    copy.write_text(re.sub(r"(ctx->cmd_bufs_ext)\[(\w)\]", r"[\1 objectAtIndex:\2]", text), encoding="utf-8")
    return copy


def _commands(build: Build, folder: Path) -> Iterator[list[str]]:
    clang = [*objc(build, folder, "gcc"), "-DGGML_METAL_EMBED_LIBRARY", "-O1", "-g", "-fPIC", "-c"]
    for source in (*sources(build).glob("*.m"), STUBS / "metal_stub.m"):
        yield [*clang, str(_runnable(source, folder)), "-o", str(folder / f"{source.stem}-m.o")]
    # Apple's <mutex> brings <memory> along.
    gcc = ["g++", "-std=c++17", "-include", "memory", *includes(build), "-O1", "-g", "-fPIC", "-c"]
    for source in sources(build).glob("*.cpp"):
        yield [*gcc, str(source), "-o", str(folder / f"{source.stem}.o")]


def plugin(build: Build, folder: Path) -> Path:
    """Compile and link ``libggml-metal.so`` in `folder` and return its path."""
    for command in _commands(build, folder):
        run(command)
    out = folder / "libggml-metal.so"
    objects = map(str, folder.glob("*.o"))
    # GNUstep's library has a _Block_copy too, one that leaves blocks on the stack: the right one comes first.
    libs = ["-lggml-base", "-lBlocksRuntime", "-lgnustep-base", "-lobjc"]
    run(["g++", "-shared", "-o", str(out), *objects, f"-L{build.lib_dir}", *libs, "-pthread", "-Wl,-z,defs"])
    return out


def run(command: list[str]) -> None:
    """Run a compiler; its messages are the failure's."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"

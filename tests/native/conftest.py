"""Compiles the C and C++ instruments in ``src`` against a build, once per session and build."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

SRC = Path(__file__).parent / "src"


class Build(Protocol):
    """What the fixtures ``patched_build`` and ``stock_build`` give."""

    lib_dir: Path
    include_dirs: list[Path]
    pin: str
    tree: Path


Compile = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _compiler(name: str, variable: str) -> str:
    found = os.environ.get(variable) or shutil.which(name)
    if not found:
        pytest.skip(f"no {name}: the native instruments cannot be compiled")
    return found


def plugins(lib_dir: Path) -> list[Path]:
    """The plug-ins of a build: ``libggml-*.so`` but libggml-base."""
    return sorted(p for p in lib_dir.glob("libggml-*.so") if p.name != "libggml-base.so")


@pytest.fixture(scope="session")
def compile_native(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """``compile_native(build, "view_copy.cpp", libs=["ggml"], flags=[…])``: the path of the program."""
    folder = tmp_path_factory.mktemp("native")
    made: dict[tuple[Any, ...], Path] = {}

    def compile_one(
        build: Build,
        source: str,
        *,
        libs: Sequence[str] = ("ggml", "ggml-base"),
        flags: Sequence[str] = (),
        extra_sources: Sequence[Path] = (),
        rpath: bool = True,
    ) -> Path:
        key = (build.lib_dir, source, tuple(libs), tuple(flags), tuple(extra_sources), rpath)
        if key in made:
            return made[key]
        cpp = source.endswith(".cpp")
        command = [_compiler("g++", "CXX"), "-std=c++17"] if cpp else [_compiler("gcc", "CC"), "-std=c11"]
        out = folder / f"{Path(source).stem}-{len(made)}"
        command += ["-O1", "-g", "-Wall", "-Wextra", "-D_GNU_SOURCE", *flags]
        command += [f"-I{path}" for path in build.include_dirs]
        command += [
            f"-I{build.tree / 'ggml/src'}",
            str(SRC / source),
            *map(str, extra_sources),
            "-o",
            str(out),
        ]
        command += [f"-L{build.lib_dir}", *(f"-l{lib}" for lib in libs), "-pthread"]
        command += [f"-Wl,-rpath,{build.lib_dir}" if rpath else f"-Wl,-rpath-link,{build.lib_dir}"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
        made[key] = out
        return out

    return compile_one


@pytest.fixture(scope="session")
def hostile_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with plug-ins that end the process when they are loaded."""
    folder = tmp_path_factory.mktemp("hostile")
    first = folder / "libggml-cpu.so"
    command = [_compiler("gcc", "CC"), "-shared", "-fPIC", str(SRC / "hostile_plugin.c"), "-o", str(first)]
    subprocess.run(command, check=True)
    for name in ("libggml-cpu-evil.so", "libggml-blas.so", "libggml-vulkan.so", "libggml-rpc.so"):
        shutil.copy(first, folder / name)
    return folder


@pytest.fixture(scope="session")
def run_native() -> Run:
    """``run_native(program, *args, cwd=…, env={…})``, without ggml's backtrace (a debugger)."""

    def run(program: Path, *args: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> Any:
        clean = {k: v for k, v in os.environ.items() if k not in ("LD_LIBRARY_PATH", "GGML_BACKEND_PATH")}
        return subprocess.run(
            [str(program), *map(str, args)],
            cwd=cwd,
            env={**clean, "GGML_NO_BACKTRACE": "1", **(env or {})},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
        )

    return run

"""Libraries of another build are refused, never mixed in; damaged ones do not crash."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_builds import SUFFIX, elf_only

LIBRARIES = (*(f"lib{name}{SUFFIX}" for name in ("llama", "ggml", "ggml-base")), "libggml-cpu.so")
LOAD = """
try:
    print("loaded", len(pyllama.devices()), pyllama.lib.llama_max_devices() > 0)
except pyllama.errors.LoadError as error:
    assert "\\n" not in str(error), error
    print("LoadError", error)
"""
Damage = Callable[[Path], None]


@pytest.fixture
def copy(patched_build: Any, tmp_path: Path) -> Path:
    """A build that may be damaged."""
    folder = tmp_path / "build"
    shutil.copytree(patched_build.folder, folder, ignore=shutil.ignore_patterns("bin"))
    return folder


def _told(child: Any, folder: Path, code: str = LOAD) -> str:
    done = child(code, check=False, PYLLAMA_BUILD=str(folder))
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr}"
    assert done.stderr == ""
    return str(done.stdout)


def test_an_unchanged_copy_loads(child: Any, copy: Path) -> None:
    assert _told(child, copy) == "loaded 1 True\n"


@pytest.mark.parametrize("name", LIBRARIES)
def test_library_of_another_build(name: str, child: Any, copy: Path, stock_build: Any) -> None:
    ours, theirs = _key(child, copy), _key(child, stock_build.folder)
    assert ours != theirs
    shutil.copy(stock_build.lib_dir / name, copy / "lib" / name)
    told = _told(child, copy)
    assert told.startswith("LoadError") and name in told
    assert ours[:12] in told and theirs[:12] in told


def _key(child: Any, folder: Path) -> str:
    return _told(child, folder, "print(pyllama.build_info().key, end='')")


def test_module_of_another_build(child: Any, copy: Path, stock_build: Any) -> None:
    for path in (copy / "python").glob("_pyllama*"):
        shutil.copy(stock_build.folder / "python" / path.name, path)
    told = _told(child, copy)
    assert told.startswith("LoadError") and _key(child, stock_build.folder)[:12] in told


@pytest.mark.parametrize("name", LIBRARIES)
def test_missing_library(name: str, child: Any, copy: Path) -> None:
    (copy / "lib" / name).unlink()
    told = _told(child, copy)
    assert told.startswith("LoadError") and str(copy / "lib") in told


@elf_only
@pytest.mark.parametrize("name", [*(f"lib/{name}" for name in LIBRARIES), "python/_pyllama.abi3.so"])
def test_library_that_was_cut_short(name: str, child: Any, copy: Path) -> None:
    path = copy / name
    if not path.exists():
        pytest.skip("this interpreter has no stable ABI")
    size = path.stat().st_size
    for length in (size - 1, size * 2 // 3, size // 2, 4096, 40, 0):
        os.truncate(path, length)
        told = _told(child, copy)
        assert told.startswith("LoadError") and name in told, length


def _remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def _write(name: str, text: str) -> Damage:
    def write(folder: Path) -> None:
        (folder / name).write_text(text)

    return write


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_write("build.json", ""), id="build.json empty"),
        pytest.param(_write("build.json", "{"), id="build.json cut"),
        pytest.param(_write("build.json", "[]"), id="build.json is a list"),
        pytest.param(_write("build.json", '{"pin": "x"}'), id="build.json without keys"),
        pytest.param(_remove("build.json"), id="no build.json"),
        pytest.param(_write("python/declared.json", "{"), id="declared.json cut"),
        pytest.param(_write("python/declared.json", "[]"), id="declared.json is a list"),
        pytest.param(_remove("python/declared.json"), id="no declared.json"),
        pytest.param(_remove("python/_pyllama.abi3.so"), id="no module"),
    ],
)
def test_damaged_build(damage: Damage, child: Any, copy: Path) -> None:
    damage(copy)
    assert _told(child, copy).startswith("LoadError")


def test_build_folder_that_is_none(child: Any, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        told = _told(child, folder)
        assert told.startswith("LoadError") and f"PYLLAMA_BUILD={folder}" in told


def _shared(source: str, out: Path, *flags: str) -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler")
    command = [compiler, "-shared", "-fPIC", "-xc", "-", "-xnone", "-o", str(out), *flags]
    subprocess.run(command, check=True, input=source, text=True)
    return out


@elf_only
def test_library_without_identity_does_not_borrow_its_dependencies(child: Any, copy: Path) -> None:
    lib = copy / "lib"
    _shared(
        "int llama_max_devices(void) { return 1; }",
        lib / "libllama.so",
        "-Wl,-soname,libllama.so,--no-as-needed,-rpath,$ORIGIN",
        f"-L{lib}",
        "-lggml",
        "-lggml-base",
    )
    told = _told(child, copy)
    assert told.startswith("LoadError") and "libllama.so was not built by pyllama" in told


@pytest.mark.parametrize("mode", ["RTLD_GLOBAL", "RTLD_LOCAL"])
def test_stock_library_that_is_loaded_first(mode: str, child: Any, stock_build: Any) -> None:
    """It has the same soname, so the system would hand it to our libllama."""
    other = stock_build.lib_dir / f"libggml-base{SUFFIX}"
    done = child(f"import ctypes\nctypes.CDLL({str(other)!r}, mode=ctypes.{mode})\n{LOAD}")
    assert done.stdout.startswith("LoadError another llama.cpp") and str(other) in done.stdout


STRANGER = """
#include <stdlib.h>
void *ggml_init(void *params) { abort(); }
size_t ggml_backend_dev_count(void) { return 77; }
"""


def test_stranger_of_another_name_that_is_global(child: Any, tmp_path: Path) -> None:
    """Another soname, but its symbols go before ours in every lookup."""
    path = _shared(STRANGER, tmp_path / "libstranger.so")
    preload = f"import ctypes\nctypes.CDLL({str(path)!r}, mode=ctypes.%s)\n{LOAD}"
    told = child(preload % "RTLD_GLOBAL").stdout
    assert told.startswith("LoadError another llama.cpp") and str(path) in told
    assert child(preload % "RTLD_LOCAL").stdout == "loaded 1 True\n", "a private one does no harm"


def test_own_library_that_is_loaded_first(child: Any, patched_build: Any) -> None:
    own = patched_build.lib_dir / f"libggml-base{SUFFIX}"
    done = child(f"import ctypes\nctypes.CDLL({str(own)!r}, mode=ctypes.RTLD_GLOBAL)\n{LOAD}")
    assert done.stdout == "loaded 1 True\n"

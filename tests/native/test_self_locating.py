"""Feature self-locating: plug-ins are found beside libggml, wherever the program lies and runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import Build, Compile, Run, plugins

pytestmark = pytest.mark.matrix

LIBS = ("llama", "ggml", "ggml-base")


@pytest.fixture(scope="session")
def patched(compile_native: Compile, patched_build: Build) -> Path:
    return compile_native(patched_build, "self_locating.c", libs=LIBS)


@pytest.fixture(scope="session")
def unbound(compile_native: Compile, patched_build: Build) -> Path:
    """The same without an rpath: LD_LIBRARY_PATH says where the libraries are."""
    return compile_native(patched_build, "self_locating.c", libs=LIBS, rpath=False)


@pytest.fixture(scope="session")
def stock(compile_native: Compile, stock_build: Build) -> Path:
    return compile_native(stock_build, "self_locating.c", libs=LIBS)


def core_copy(build: Build, folder: Path) -> Path:
    """The libraries of a build without its plug-ins."""
    folder.mkdir(parents=True, exist_ok=True)
    skip = {p.name for p in plugins(build.lib_dir)}
    for path in build.lib_dir.glob("lib*.so*"):
        if path.name not in skip and path.name.startswith(("libggml", "libllama")):
            shutil.copy(path, folder / path.name)
    return folder


def lines(done: Any, kind: str) -> list[str]:
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return [line.split(" ", 1)[1] for line in done.stdout.splitlines() if line.startswith(kind + " ")]


def safe(done: Any, lib_dir: Path) -> None:
    """The CPU is there, once, and every plug-in that is mapped comes from lib_dir."""
    assert "HOSTILE" not in done.stderr
    assert lines(done, "backend").count("CPU") == 1, done.stderr
    assert lines(done, "device").count("CPU") == 1
    used = lines(done, "plugin")
    assert used and all(Path(p).parent == lib_dir.resolve() for p in used), used


@pytest.mark.parametrize("step", ["init", "gpu"])
def test_plugins_beside_the_library(
    patched: Path, patched_build: Build, run_native: Run, tmp_path: Path, step: str
) -> None:
    safe(run_native(patched, step, "report", cwd=tmp_path), patched_build.lib_dir)


@pytest.mark.parametrize(
    "steps",
    [("init",), ("gpu",), ("load_all",), ("init", "load_all"), ("load_all", "init", "load_all", "gpu")],
)
def test_never_from_the_current_directory(
    patched: Path, patched_build: Build, run_native: Run, hostile_dir: Path, steps: tuple[str, ...]
) -> None:
    """Nor is anything registered twice."""
    safe(run_native(patched, *steps, "report", cwd=hostile_dir), patched_build.lib_dir)


def test_never_from_the_folder_of_the_program(
    patched: Path, patched_build: Build, run_native: Run, hostile_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bin"
    shutil.copytree(hostile_dir, folder)
    program = Path(shutil.copy(patched, folder / "program"))
    safe(run_native(program, "init", "report", cwd=tmp_path), patched_build.lib_dir)


def test_load_all_searches_the_folder_of_the_program(
    unbound: Path, patched_build: Build, run_native: Run, tmp_path: Path
) -> None:
    """As upstream documents it, when there is nothing beside libggml."""
    core = core_copy(patched_build, tmp_path / "lib")
    folder = tmp_path / "bin"
    folder.mkdir()
    for plugin in plugins(patched_build.lib_dir):
        shutil.copy(plugin, folder)
    program = Path(shutil.copy(unbound, folder / "program"))
    safe(run_native(program, "load_all", "report", cwd=tmp_path, env={"LD_LIBRARY_PATH": str(core)}), folder)


def test_through_a_symbolic_link_to_the_folder(
    unbound: Path, patched_build: Build, run_native: Run, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(patched_build.lib_dir, target_is_directory=True)
    safe(
        run_native(unbound, "init", "report", cwd=tmp_path, env={"LD_LIBRARY_PATH": str(link)}),
        patched_build.lib_dir,
    )


def test_through_symbolic_links_to_the_libraries(
    unbound: Path, patched_build: Build, run_native: Run, tmp_path: Path
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    skip = {p.name for p in plugins(patched_build.lib_dir)}
    for path in patched_build.lib_dir.glob("lib*.so*"):
        if path.name not in skip:
            (links / path.name).symlink_to(path)
    safe(
        run_native(unbound, "init", "report", cwd=tmp_path, env={"LD_LIBRARY_PATH": str(links)}),
        patched_build.lib_dir,
    )


def test_a_relative_library_path_survives_chdir(
    unbound: Path, patched_build: Build, run_native: Run, hostile_dir: Path, tmp_path: Path
) -> None:
    """libggml's name is then relative, and after the chdir it would name the hostile folder."""
    trap = tmp_path / "trap"
    shutil.copytree(hostile_dir, trap / "lib")
    core_copy(patched_build, trap / "lib")
    (tmp_path / "lib").symlink_to(patched_build.lib_dir, target_is_directory=True)
    env = {"LD_LIBRARY_PATH": "lib"}
    safe(run_native(unbound, "chdir", trap, "init", "report", cwd=tmp_path, env=env), patched_build.lib_dir)


def test_out_of_tree_plugin(unbound: Path, patched_build: Build, run_native: Run, tmp_path: Path) -> None:
    """GGML_BACKEND_PATH is honoured, also when nothing lies beside the library."""
    core = core_copy(patched_build, tmp_path / "lib")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    plugin = shutil.copy(
        next(p for p in plugins(patched_build.lib_dir) if p.name.startswith("libggml-cpu")), elsewhere
    )
    env = {"LD_LIBRARY_PATH": str(core), "GGML_BACKEND_PATH": str(plugin)}
    safe(run_native(unbound, "init", "report", cwd=tmp_path, env=env), elsewhere)


def test_nothing_there_names_the_folder(
    unbound: Path, patched_build: Build, run_native: Run, hostile_dir: Path, tmp_path: Path
) -> None:
    core = core_copy(patched_build, tmp_path / "lib")
    done = run_native(unbound, "init", "report", cwd=hostile_dir, env={"LD_LIBRARY_PATH": str(core)})
    assert lines(done, "backend") == []
    assert "no backend could be loaded" in done.stderr and str(core.resolve()) in done.stderr


def test_a_broken_plugin_is_explained(
    unbound: Path, patched_build: Build, run_native: Run, tmp_path: Path
) -> None:
    core = core_copy(patched_build, tmp_path / "lib")
    (core / "libggml-cpu.so").write_bytes(b"not a library")
    done = run_native(unbound, "init", "report", cwd=tmp_path, env={"LD_LIBRARY_PATH": str(core)})
    assert lines(done, "backend") == []
    assert str(core.resolve()) in done.stderr
    assert "libggml-cpu.so: " in done.stderr
    assert "invalid ELF header" in done.stderr or "file too short" in done.stderr


def test_model_without_init(patched: Path, run_native: Run, hostile_dir: Path, test_model: Path) -> None:
    done = run_native(patched, "model", test_model, "report", cwd=hostile_dir)
    assert "model loaded" in done.stdout, done.stderr
    assert "HOSTILE" not in done.stderr


def test_vocabulary_alone_needs_no_plugin(
    unbound: Path, patched_build: Build, run_native: Run, tmp_path: Path, test_model: Path
) -> None:
    core = core_copy(patched_build, tmp_path / "lib")
    done = run_native(
        unbound, "vocab", test_model, "report", cwd=tmp_path, env={"LD_LIBRARY_PATH": str(core)}
    )
    assert "model loaded" in done.stdout
    assert "no backend could be loaded" not in done.stderr


def test_stock_finds_nothing(stock: Path, run_native: Run, tmp_path: Path) -> None:
    assert lines(run_native(stock, "init", "report", cwd=tmp_path), "backend") == []


def test_stock_loads_from_the_current_directory(
    stock: Path, stock_build: Build, run_native: Run, hostile_dir: Path
) -> None:
    """From 2026-10 on llama_backend_init itself does; before, only a program that asks for it."""
    step = "load_all" if stock_build.pin in ("2025-08", "2026-05") else "init"
    done = run_native(stock, step, "report", cwd=hostile_dir)
    assert done.returncode == 66 and "HOSTILE PLUG-IN LOADED" in done.stderr


def test_without_dynamic_backends_it_loads_nothing(patched_build: Build, tmp_path: Path) -> None:
    """A build without GGML_BACKEND_DL is unaffected: the file then holds one function that counts."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if not compiler:
        pytest.skip("no g++")
    source = patched_build.tree / "ggml/src"
    includes = [f"-I{path}" for path in (*patched_build.include_dirs, source)]
    out = tmp_path / "static.o"
    subprocess.run(
        [compiler, "-std=c++17", "-c", *includes, str(source / "ggml-self-locating.cpp"), "-o", str(out)],
        check=True,
    )
    wanted = subprocess.run(["nm", "-u", str(out)], check=True, capture_output=True, text=True).stdout
    assert "ggml_backend_reg_count" in wanted
    assert not any(name in wanted for name in ("dladdr", "dlopen", "load_all", "getenv"))

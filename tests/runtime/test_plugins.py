"""Plug-ins beside the CPU's: tried in a child first, chosen by PYLLAMA_BACKENDS, never silently absent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyllama
from pyllama.builder.compile.toolchain import find_compilers
from pyllama.native import backends, plugins, probe

# A plug-in of another build key is refused before it runs, so ours says what the build says.
PLUGIN = """
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
const char * pyllama_identity(void) { return IDENTITY; }
static void count(void) {
    const char * path = getenv("COUNT_FILE");
    FILE * file = path ? fopen(path, "a") : NULL;
    if (file) { fputc('x', file); fclose(file); }
}
void * ggml_backend_init(void) { count(); DO; return NULL; }
"""
SHOW = """
try:
    print([device.name for device in pyllama.devices()])
    from pyllama.native.loader import load
    print(json.dumps(load().skipped))
except pyllama.Error as error:
    assert "\\n" not in str(error), error
    print(type(error).__name__, error)
"""
Make = Callable[..., Path]


@pytest.fixture
def make(patched_build: Any, tmp_path: Path) -> Make:
    """`make(name, statement)` returns a copy of the build with one more plug-in, that does `statement`."""

    def made(name: str, statement: str, *flags: str) -> Path:
        folder = tmp_path / name
        ignored = shutil.ignore_patterns("bin")
        shutil.copytree(patched_build.folder, folder, ignore=ignored)
        table = json.loads((folder / "build.json").read_text())
        identity = json.dumps(table["identity"])
        text = PLUGIN.replace("IDENTITY", identity).replace("DO;", statement)
        library = folder / f"lib/libggml-{name}.so"
        command = [find_compilers().cc, "-shared", "-fPIC", "-x", "c", "-", "-x", "none", "-o", str(library)]
        command += flags
        subprocess.run(command, input=text, text=True, check=True)
        table["plugins"].append(f"ggml-{name}")
        table["backends"].append(name)
        (folder / "build.json").write_text(json.dumps(table))
        return folder

    return made


@pytest.fixture
def show(child: Any, tmp_path: Path) -> Callable[..., tuple[str, str]]:
    def shown(folder: Path, **env: str) -> tuple[str, str]:
        done = child(SHOW, PYLLAMA_BUILD=str(folder), PYLLAMA_CACHE=str(tmp_path / "cache"), **env)
        return done.stdout, done.stderr

    return shown


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("abort();", "it crashed the process that tried it (SIGABRT)"),
        ("*(volatile int *) 0 = 0;", "it crashed the process that tried it (SIGSEGV)"),
        ("_exit(7);", "the process that tried it ended with code 7"),
        ("", "does not load"),
    ],
)
def test_a_plugin_that_does_not_work_is_left_out(
    statement: str, reason: str, make: Make, show: Callable[..., tuple[str, str]]
) -> None:
    folder = make("broken", statement)
    out, err = show(folder)
    assert out.startswith("['CPU']") and reason in json.loads(out.splitlines()[1])["broken"]
    assert "RuntimeWarning: the backend broken (the build) is not used: " in err and reason in err
    out, _ = show(folder, PYLLAMA_BACKENDS="broken")
    assert out.startswith("LoadError the backend broken, ") and reason in out


def test_a_missing_library_of_the_system_is_named(
    make: Make, show: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    driver = tmp_path / "libno_driver_here.so.1"
    command = [find_compilers().cc, "-shared", "-x", "c", "-", "-o", str(driver)]
    command += ["-Wl,-soname,libno_driver_here.so.1"]
    subprocess.run(command, input="", text=True, check=True)
    folder = make("driven", "", "-Wl,--no-as-needed", str(driver))
    driver.unlink()
    out, _ = show(folder)
    assert "libno_driver_here.so.1" in json.loads(out.splitlines()[1])["driven"]


@pytest.fixture
def shared(tmp_path: Path) -> Callable[..., Path]:
    """`shared(folder, name, answer, *needs)` links a library with a function of its name."""

    def linked(folder: Path, name: str, answer: int, *needs: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"lib{name}.so.13"
        calls = "".join(f"int {need.name[3:].partition('.')[0]}(void);\n" for need in needs)
        total = "".join(f" + {need.name[3:].partition('.')[0]}()" for need in needs)
        text = f"{calls}int {name}(void) {{ return {answer}{total}; }}\n"
        command = [find_compilers().cc, "-shared", "-fPIC", "-x", "c", "-", "-x", "none", *map(str, needs)]
        command += [f"-Wl,-soname,{path.name}", "-o", str(path)]
        subprocess.run(command, input=text, text=True, check=True)
        return path

    return linked


def test_libraries_of_nvidias_packages(
    make: Make, show: Callable[..., tuple[str, str]], shared: Callable[..., Path], tmp_path: Path
) -> None:
    """What the system lacks is taken from the packages, and nothing else of them is."""
    site, system = tmp_path / "site/nvidia/cu13/lib", tmp_path / "system"
    libraries = []
    for folder, answer in ((site, 1), (system, 100)):
        runtime, light = shared(folder, "a_runtime", answer), shared(folder, "a_light", answer)
        libraries = [runtime, light, shared(folder, "a_blas", answer, light)]
    said = tmp_path / "said"
    text = 'int a_runtime(void), a_blas(void); FILE * f = fopen(getenv("SAID"), "w"); '
    text += 'fprintf(f, "%d %d", a_runtime(), a_blas()); fclose(f);'
    folder = make("cuda", text, str(libraries[0]), str(libraries[2]))
    roots = str(Path(pyllama.__file__).parents[1])

    def answers(site: Path | None, system: Path | None) -> tuple[str, str]:
        said.unlink(missing_ok=True)
        path = os.pathsep.join([roots, *([str(site)] if site else [])])
        out, _ = show(folder, PYTHONPATH=path, LD_LIBRARY_PATH=str(system or ""), SAID=str(said))
        return said.read_text() if said.exists() else "", json.loads(out.splitlines()[1])["cuda"]

    found, reason = answers(None, None)
    assert found == "" and "liba_runtime.so.13" in reason
    assert answers(tmp_path / "site", None)[0] == "1 2"
    assert answers(tmp_path / "site", system)[0] == "100 200"
    libraries[2].unlink()
    # The packages' own needs are the system's first as well.
    assert answers(tmp_path / "site", system)[0] == "100 101"
    (site / "liba_blas.so.13").unlink()
    found, reason = answers(tmp_path / "site", system)
    assert found == "" and "liba_blas.so.13" in reason


def test_it_is_tried_once_until_something_changes(
    make: Make, show: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    folder = make("broken", "abort();")
    count = tmp_path / "count"

    def tries(**env: str) -> int:
        before = len(count.read_text()) if count.exists() else 0
        show(folder, COUNT_FILE=str(count), **env)
        return len(count.read_text()) - before

    assert tries() == 1
    assert tries() == 0
    assert tries(GGML_VK_VISIBLE_DEVICES="7") == 1
    assert tries() == 0
    library = folder / "lib/libggml-broken.so"
    library.write_bytes(library.read_bytes() + b"\0")
    assert tries() == 1
    for file in (tmp_path / "cache/probes").iterdir():
        file.write_text("{ damaged")
    assert tries() == 1


def test_what_may_be_cured_is_tried_again(
    make: Make, show: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    folder = make("broken", "_exit(7);")
    count = tmp_path / "count"
    for expected in ("x", "xx"):
        show(folder, COUNT_FILE=str(count))
        assert count.read_text() == expected


def test_nothing_is_imported_from_the_current_folder(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("broken", "abort();")
    monkeypatch.setenv("PYLLAMA_CACHE", str(tmp_path / "cache"))
    plugin = plugins.Plugin("broken", folder / "lib/libggml-broken.so", "the build")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "pyllama").mkdir(parents=True)
    for name in ("json.py", "signal.py", "pyllama/__init__.py"):
        (elsewhere / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(3)\n")
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("PYTHONPATH", raising=False)  # a `.` in it would be the user's own wish
    assert "SIGABRT" in probe.probe(plugin, folder).reason
    assert not (tmp_path / "ran").exists()


def test_without_a_python_to_run_nothing_is_tried(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("broken", "abort();")
    monkeypatch.setattr("sys.executable", None)
    plugin = plugins.Plugin("broken", folder / "lib/libggml-broken.so", "the build")
    assert probe.probe(plugin, folder).usable


def test_one_that_hangs_is_given_up(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = make("slow", "sleep(60);")
    monkeypatch.setattr(probe, "SECONDS", 2)
    monkeypatch.setenv("PYLLAMA_CACHE", str(tmp_path / "cache"))
    plugin = plugins.Plugin("slow", folder / "lib/libggml-slow.so", "the build")
    started = time.monotonic()
    assert probe.probe(plugin, folder).reason == "it did not answer within 2 s"
    assert time.monotonic() - started < 50


def test_nothing_is_tried_that_is_not_wanted(
    make: Make, show: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    folder = make("broken", "abort();")
    count = tmp_path / "count"
    out, err = show(folder, PYLLAMA_BACKENDS="CPU", COUNT_FILE=str(count))
    assert out.splitlines() == ["['CPU']", '{"broken": "PYLLAMA_BACKENDS does not name it"}'] and err == ""
    assert not count.exists()


def test_a_backend_that_is_not_there(patched_build: Any, show: Callable[..., tuple[str, str]]) -> None:
    out, _ = show(patched_build.folder, PYLLAMA_BACKENDS="cpu,abacus")
    assert out.startswith(
        "LoadError PYLLAMA_BACKENDS names 'abacus', and there is no such backend (there is cpu"
    )
    assert "pyllama build --backend abacus" in out


def test_names_in_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in (("", None), (" ", None), ("cpu", []), ("cpu-all, RPC,rpc,", ["rpc"])):
        monkeypatch.setenv(backends.VARIABLE, text)
        assert backends.named() == expected
    monkeypatch.delenv(backends.VARIABLE)
    assert backends.named() is None

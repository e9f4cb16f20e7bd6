"""Plug-ins beside the CPU's: tried in a child first, chosen by PYLLAMA_BACKENDS, never silently absent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyllama
from pyllama import places
from pyllama.builder.compile.toolchain import find_compilers
from pyllama.errors import UsageError
from pyllama.native import backends, plugins, probe

# A plug-in of another build key is refused before it runs, so ours says what the build says.
PLUGIN = """
#include <signal.h>
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
        ("kill(getpid(), SIGTERM);", "the process that tried it was ended (SIGTERM)"),
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


@pytest.mark.parametrize("statement", ["_exit(7);", "kill(getpid(), SIGKILL);"])
def test_what_may_be_cured_is_tried_again(
    statement: str, make: Make, show: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    """A signal from outside, as at the end of a session or without memory, says nothing of the driver."""
    folder = make("broken", statement)
    count = tmp_path / "count"
    for expected in ("x", "xx"):
        show(folder, COUNT_FILE=str(count))
        assert count.read_text() == expected


def kept(folder: Path, name: str) -> str:
    """Code that keeps a verdict as if the plug-in of a build had been tried."""
    return f"""
from pathlib import Path
from pyllama.native import plugins, probe
plugin = plugins.Plugin({name!r}, Path({str(folder / f"lib/libggml-{name}.so")!r}), "the build")
probe._write(probe._place(plugin, Path({str(folder)!r})), probe.Verdict(**json.loads(sys.argv[1])))
"""


def test_what_worked_once_and_does_not_any_more(
    make: Make, child: Any, show: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    """Its driver has gone and the key does not show it: Python goes on with the CPU, and forgets."""
    folder, count = make("broken", ""), tmp_path / "count"
    verdict = json.dumps({"usable": True, "reason": "", "devices": ["Broken0"]})
    env = {"PYLLAMA_BUILD": str(folder), "PYLLAMA_CACHE": str(tmp_path / "cache")}
    child(kept(folder, "broken"), verdict, **env)
    (place,) = (tmp_path / "cache/probes").iterdir()
    out, err = show(folder, COUNT_FILE=str(count))
    assert out.startswith("['CPU']") and "does not load" in json.loads(out.splitlines()[1])["broken"]
    assert "RuntimeWarning" in err and count.read_text() == "x" and not place.exists()
    child(kept(folder, "broken"), verdict, **env)
    out, _ = show(folder, PYLLAMA_BACKENDS="broken")
    assert out.startswith("LoadError the backend broken, ") and not place.exists()
    child(kept(folder, "broken"), verdict, **env)
    child("from pyllama.cli.main import main; main(['devices', '--explain'])", **env)
    assert not place.exists()


@pytest.mark.parametrize(
    ("verdict", "seconds"),
    [
        (probe.Verdict(True, "", ("GPU0",)), 30 * 24 * 3600),
        (probe.Verdict(True, "", ()), 3600),
        (probe.Verdict(False, "it crashed the process that tried it (SIGSEGV)", ()), 30 * 24 * 3600),
        (probe.Verdict(False, "it did not answer within 120 s", ()), 3600),
        (probe.Verdict(False, "it does not load", ()), 0),
    ],
    ids=["works", "no device", "crashes", "hangs", "fails"],
)
def test_how_long_a_verdict_is_kept(verdict: probe.Verdict, seconds: int, tmp_path: Path) -> None:
    place = tmp_path / "probes/x.json"

    def after(age: float) -> probe.Verdict | None:
        probe._write(place, verdict)
        if place.exists():
            os.utime(place, (time.time() - age,) * 2)
        return probe._read(place)

    assert after(seconds + 60) is None
    if seconds:
        assert after(0) == after(seconds - 60) == verdict
        os.utime(place, (0, 0))
        probe._write(place.with_name("y.json"), verdict)
        assert not place.exists()  # nobody asks for it any more
    else:
        assert not place.exists()


def test_files_that_variables_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A driver that is replaced where a variable points, or added where the Vulkan loader looks."""
    monkeypatch.setenv("PYLLAMA_CACHE", str(tmp_path / "cache"))
    plugin, folder = plugins.Plugin("x", tmp_path / "x.so", "the build"), tmp_path / "build"
    driver, libraries, home = tmp_path / "icd.json", tmp_path / "libraries", tmp_path / "home"
    driver.write_text("{}")
    libraries.mkdir()
    user = home / ".local/share/vulkan/icd.d"
    user.mkdir(parents=True)
    for name, value in (("VK_DRIVER_FILES", driver), ("LD_LIBRARY_PATH", libraries), ("HOME", home)):
        monkeypatch.setenv(name, str(value))
    seen = {probe._place(plugin, folder)}
    assert probe._place(plugin, folder) in seen
    for change in (
        lambda: driver.write_text("{ }"),
        lambda: (libraries / "libvulkan.so.1").touch(),
        lambda: (user / "radeon.json").touch(),
        lambda: monkeypatch.setenv("XDG_DATA_DIRS", "/elsewhere"),
    ):
        change()  # type: ignore[no-untyped-call]
        place = probe._place(plugin, folder)
        assert place not in seen
        seen.add(place)


def test_without_a_home_nothing_is_kept(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("broken", "abort();")
    monkeypatch.setenv("PYLLAMA_CACHE", "~nobody-of-this-name/cache")
    plugin = plugins.Plugin("broken", folder / "lib/libggml-broken.so", "the build")
    assert "SIGABRT" in probe.probe(plugin, folder).reason
    with pytest.raises(UsageError, match=r"has no home folder.*set PYLLAMA_CACHE or HOME"):
        places.cache_dir()


def test_a_program_that_set_its_own_path(make: Make, tmp_path: Path) -> None:
    """What Python itself does not find, the child is told."""
    folder = make("broken", "abort();")
    venv.create(tmp_path / "venv")
    plain = tmp_path / "venv/bin/python"
    found = [path for path in sys.path if path.endswith("site-packages")]
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env.update(PYLLAMA_BUILD=str(folder), PYLLAMA_CACHE=str(tmp_path / "cache"))
    roots = [str(Path(pyllama.__file__).parents[1]), *found]
    code = f"import json, sys\nsys.path += {roots}\nimport pyllama\n{SHOW}"
    done = subprocess.run([plain, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert "SIGABRT" in json.loads(done.stdout.splitlines()[1])["broken"], done.stderr


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

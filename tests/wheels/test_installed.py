"""The wheels in a new environment, with no checkout, no cache and nothing of ours set: as users have them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import venv
from email import message_from_bytes
from pathlib import Path
from subprocess import PIPE
from typing import Any
from zipfile import ZipFile

import pytest
from backend_wheels.project import version, write_plugin
from backend_wheels.wheels import Workshop, environment
from making import BACKENDS, BUILD, clean

from pyllama.builder import build, finished
from pyllama.builder.paths import locate
from pyllama.builder.plan import make_plan
from pyllama.builder.progress import Reporter

pytestmark = pytest.mark.wheels

OTHERS = [name for name in BACKENDS if not name.startswith("cpu")]
LOOK = """
import json, sys
from pyllama.native.installed import build_info
from pyllama.native.plugins import find, mismatch
build = build_info()
rows = [[p.backend, str(p.path), p.source, mismatch(p, build)] for p in find(build)]
print(json.dumps([rows, [name for name in sys.modules if name.startswith(("pyllama", "_cffi"))]]))
"""


LOAD = """
import json
from pyllama.native.loader import load
library = load()
raw = library.raw
rows = [raw.ggml_backend_reg_name(raw.ggml_backend_reg_get(i)) for i in range(raw.ggml_backend_reg_count())]
names = [library.ffi.string(row).decode().lower() for row in rows]
print(json.dumps([names, library.skipped, "ggml_backend_rpc_init" in library.missing]))
"""


class Environment:
    """A virtual environment in a folder of its own, and programs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        venv.create(folder / "venv", with_pip=True)
        self.bin = folder / "venv" / "bin"

    def run(self, program: str, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        here = {**clean(), "HOME": str(self.home), "PYLLAMA_CACHE": str(self.home / "cache"), **env}
        if program == "pip":  # it has a cache and settings of its own
            here = {**clean(), **env}
        return subprocess.run(
            [str(self.bin / program), *map(str, arguments)],
            cwd=self.home,
            env=here,
            capture_output=True,
            text=True,
            check=False,
        )

    def good(self, program: str, *arguments: str | Path, **env: str) -> str:
        done = self.run(program, *arguments, **env)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def pip(self, *arguments: str | Path) -> None:
        self.good("pip", "--disable-pip-version-check", *arguments)

    def install(self, dist: Path, *names: str) -> None:
        """From a folder of wheels and from nowhere else."""
        self.pip("install", "-q", "--no-index", "--find-links", dist, *names)

    def found(self, **env: str) -> list[list[Any]]:
        rows, modules = json.loads(self.good("python", "-c", LOOK, **env))
        assert "pyllama.native._pyllama" not in modules  # nothing native
        assert isinstance(rows, list)
        return rows

    @property
    def site(self) -> Path:
        return next((self.folder / "venv" / "lib").glob("python*")) / "site-packages"


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The core alone; what it requires comes from the index."""
    made = Environment(tmp_path_factory.mktemp("environment"))
    (wheel,) = dist.glob("pyllama_cffi-*.whl")
    (name,) = (n for n in ZipFile(wheel).namelist() if n.endswith(".dist-info/METADATA"))
    requires = message_from_bytes(ZipFile(wheel).read(name)).get_all("Requires-Dist", [])
    made.pip("install", "-q", *(line for line in requires if "extra ==" not in line))
    made.install(dist, "pyllama-cffi")
    return made


@pytest.fixture
def with_plugins(installed: Environment, dist: Path) -> Environment:
    """The core and every backend, as pip installs them."""
    installed.install(dist, "--force-reinstall", "--no-deps", *names_of(dist))
    return installed


def names_of(dist: Path) -> list[str]:
    return sorted(path.name.partition("-")[0].replace("_", "-") for path in dist.glob("pyllama_cffi_*.whl"))


def test_the_core_is_whole(installed: Environment, test_model: Path) -> None:
    info = json.loads(installed.good("pyllama", "info", "--json"))
    assert Path(info["lib_dir"]).is_relative_to(installed.site)
    told = json.loads(installed.good("pyllama", "run", "-m", test_model, "-n", "16", "--temp", "0", "--json"))
    assert told["text"].strip() and "time" in json.dumps(told)
    assert not (installed.home / "cache").exists()


def test_grafted_libraries_are_the_ones_that_run(installed: Environment) -> None:
    code = "import pyllama; pyllama.lib.llama_max_devices(); print(open('/proc/self/maps').read())"
    maps = installed.good("python", "-c", code)
    used = {line.split()[-1] for line in maps.splitlines() if "libgomp" in line}
    assert used == {str(path) for path in (installed.site / "pyllama_cffi.libs").glob("libgomp*")}


def test_without_a_plugin_there_is_none(installed: Environment, dist: Path) -> None:
    installed.run("pip", "uninstall", "-q", "-y", *names_of(dist))
    assert installed.found() == []


def test_plugins_are_found_by_their_entry_points(with_plugins: Environment, dist: Path) -> None:
    found = with_plugins.found()
    assert sorted(row[0] for row in found) == sorted(OTHERS)
    assert sorted(row[2] for row in found) == names_of(dist)
    for _, path, source, wrong in found:
        assert Path(path).parent == with_plugins.site / source.replace("-", "_")
        assert Path(path).is_file() and wrong is None


def test_the_loader_takes_them(with_plugins: Environment, dist: Path) -> None:
    """Those without a device here are left out, and it says so; RPC has its devices later."""
    names, skipped, rpc_is_missing = json.loads(with_plugins.good("python", "-c", LOAD))
    assert {"cpu", *OTHERS} == {*names, *skipped} and "cpu" in names
    assert set(skipped.values()) <= {"it finds no device here"}
    if "rpc" in OTHERS:
        assert "rpc" in names and not rpc_is_missing
    with_plugins.pip("uninstall", "-q", "-y", *names_of(dist))
    names, skipped, rpc_is_missing = json.loads(with_plugins.good("python", "-c", LOAD))
    assert (names, skipped, rpc_is_missing) == (["cpu"], {}, True)


@pytest.mark.skipif("rpc" not in OTHERS, reason="rpc is not among the wheels")
def test_devices_of_another_machine(with_plugins: Environment, test_model: Path) -> None:
    """A plug-in that pip installed serves and connects as one of the build does."""
    env = {**clean(), "HOME": str(with_plugins.home), "PYLLAMA_CACHE": str(with_plugins.home / "cache")}
    program = str(with_plugins.bin / "pyllama")
    with subprocess.Popen([program, "rpc-server", "--port", "0"], env=env, stdout=PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        run = ("run", "-m", test_model, "-n", "8", "--temp", "0", "--json")
        try:
            there = with_plugins.good("pyllama", *run, "--rpc", line.split()[-1])
        finally:
            server.kill()
    assert len(json.loads(there)["tokens"]) == 8  # which ones, test_rpc.py compares
    rows = json.loads(with_plugins.good("pyllama", "devices", "--explain", "--json"))
    assert {row["backend"]: row["state"] for row in rows}["rpc"] == "no device"
    assert "rpc" in json.loads(with_plugins.good("pyllama", "info", "--json"))["backends"]


@pytest.mark.skipif("vulkan" not in OTHERS, reason="vulkan is not among the wheels")
def test_a_device_that_comes_and_goes_with_its_wheel(with_plugins: Environment, test_model: Path) -> None:
    """Without its plug-in, the CPU computes where no device was asked for, and only there."""
    env = {"GGML_VK_VISIBLE_DEVICES": "0"}  # Mesa's lavapipe, where there is no GPU
    run = ("run", "-m", test_model, "-n", "8", "--temp", "0", "--json")

    def devices() -> list[str]:
        return [row["name"] for row in json.loads(with_plugins.good("pyllama", "devices", "--json", **env))]

    if "Vulkan0" not in devices():
        pytest.skip("Vulkan finds no device here")
    there = json.loads(with_plugins.good("pyllama", *run, "--device", "Vulkan0", **env))
    assert len(there["tokens"]) == 8
    with_plugins.pip("uninstall", "-q", "-y", "pyllama-cffi-vulkan")
    assert "Vulkan0" not in devices()
    assert len(json.loads(with_plugins.good("pyllama", *run, **env))["tokens"]) == 8
    refused = with_plugins.run("pyllama", *run, "--device", "Vulkan0", **env)
    assert refused.returncode == 2 and "there is no device 'Vulkan0'" in refused.stderr


def test_uninstalling_removes_them(with_plugins: Environment, dist: Path) -> None:
    for name in names_of(dist):
        with_plugins.pip("uninstall", "-q", "-y", name)
        assert name not in [row[2] for row in with_plugins.found()]
        assert not (with_plugins.site / name.replace("-", "_")).exists()
    assert "Once" in with_plugins.good("python", "-c", "import pyllama; pyllama.lib; print('Once')")


def test_the_library_says_what_its_description_says(with_plugins: Environment) -> None:
    for _, path, *_ in with_plugins.found():
        core = with_plugins.site / "pyllama" / "_build" / "lib" / "libggml-base.so"
        code = (
            "import ctypes, sys; ctypes.CDLL(sys.argv[1]); plugin = ctypes.CDLL(sys.argv[2]); "
            "plugin.pyllama_identity.restype = ctypes.c_char_p; print(plugin.pyllama_identity().decode())"
        )
        said = with_plugins.good("python", "-c", code, core, path)
        assert said.strip() == json.loads((Path(path).parent / "plugin.json").read_text())["identity"]


def test_it_works_with_the_core(with_plugins: Environment) -> None:
    """ggml of the installed core takes the plug-in: the registry has its name afterwards."""
    for backend, path, *_ in with_plugins.found():
        code = (
            "import os, sys, pyllama; lib, ffi = pyllama.lib, pyllama.ffi; "
            "register = lib.ggml_backend_load(os.fsencode(sys.argv[1])); "
            "print(ffi.string(lib.ggml_backend_reg_name(register)).decode())"
        )
        assert with_plugins.good("python", "-c", code, path).strip().lower() == backend


def cure(said: str, dist: Path) -> list[str]:
    """The arguments of the pip command in a message, with the folder of the wheels."""
    (command,) = re.findall(r"`pip (install [^`]+)`", said)
    return [str(dist) if word == "FOLDER" else word for word in command.split()]


def test_a_damaged_one_is_named_with_its_cure(with_plugins: Environment, dist: Path) -> None:
    row = with_plugins.found()[0]
    Path(row[1]).unlink()
    done = with_plugins.run("python", "-c", LOOK)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert f"LoadError: the distribution {row[2]} is damaged" in last
    with_plugins.good("pip", *cure(last, dist))
    assert len(with_plugins.found()) == len(OTHERS)


def test_the_sbom_lists_them(with_plugins: Environment, dist: Path) -> None:
    """Each wheel, its plug-in, and the libraries of this system in it, with their licences."""
    with_plugins.pip("install", "-q", "cyclonedx-python-lib>=11,<12")
    table = json.loads(with_plugins.good("pyllama", "info", "--sbom"))
    parts = {row["bom-ref"]: row for row in table["components"]}
    for wheel in dist.glob("*.whl"):
        archive = ZipFile(wheel)
        (file,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        said = message_from_bytes(archive.read(file))
        core = said["Name"] == "pyllama-cffi"
        row = table["metadata"]["component"] if core else parts[f"python:{said['Name']}"]
        (license,) = row["licenses"]
        assert said["License-Expression"] in (license.get("expression"), license.get("license", {}).get("id"))
        held = [
            name
            for name in archive.namelist()
            if ".so" in name and (".libs/" in name or not core) and not name.endswith("/")
        ]
        assert held
        for name in held:
            content = hashlib.sha256((with_plugins.site / name).read_bytes()).hexdigest()
            assert parts[name]["hashes"] == [{"alg": "SHA-256", "content": content}]
        if any(".libs/" in name for name in held):
            origins = [row for ref, row in parts.items() if ref.startswith(f"{said['Name']}:pkg:")]
            assert origins and all("licenses" in row for row in origins)


def built() -> Path:
    paths = locate()
    plan = make_plan(paths, backends=list(BACKENDS))
    return build.build(paths, plan, Reporter(quiet=True)).folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel with the plug-in of another pin: the library with another identity, as long as its own."""
    folder = tmp_path_factory.mktemp("foreign")
    backend = OTHERS[0]
    shutil.copytree(BUILD or built(), folder / "build")
    info = finished.read(folder / "build")
    said = json.loads(info["identity"])
    identity = json.dumps({**said, "pin": "2025-08", "key": said["key"][::-1]}, sort_keys=True)
    assert len(identity) == len(info["identity"])
    (library,) = (folder / "build" / "lib").glob(f"libggml-{backend}.*")
    library.write_bytes(library.read_bytes().replace(info["identity"].encode(), identity.encode()))
    manifest = {**info, "pin": "2025-08", "key": said["key"][::-1], "identity": identity}
    (folder / "build" / "build.json").write_text(json.dumps(manifest))
    write_plugin(folder / "build", backend, version(), folder / "project")
    return Workshop(folder, environment(0)).plugin(folder / "project", ["MIT"]).path


def test_one_of_another_pin_is_refused(with_plugins: Environment, foreign: Path, dist: Path) -> None:
    """pip cannot tell: the versions are the same."""
    with_plugins.pip("install", "-q", "--force-reinstall", "--no-deps", foreign)
    with_plugins.pip("check")
    (wrong,) = (row[3] for row in with_plugins.found() if row[0] == OTHERS[0])
    assert "is of pin 2025-08" in wrong
    done = with_plugins.run("python", "-c", LOAD)
    assert done.returncode != 0 and done.stderr.strip().endswith(f"LoadError: {wrong}")
    names, skipped, _ = json.loads(with_plugins.good("python", "-c", LOAD, PYLLAMA_BACKENDS="cpu"))
    assert names == ["cpu"] and set(skipped) == set(OTHERS)
    with_plugins.good("pip", *cure(wrong, dist))
    assert [row[3] for row in with_plugins.found()] == [None] * len(OTHERS)


def test_another_version_of_the_core_is_refused_by_pip(installed: Environment, dist: Path) -> None:
    (old,) = dist.glob("pyllama_cffi-*.whl")
    lone = installed.home / "lone"
    lone.mkdir()
    for wheel in dist.glob("pyllama_cffi_*.whl"):
        shutil.copy(wheel, lone)
    done = Environment(installed.folder / "other").run(
        *("pip", "install", "--no-index", "--find-links", lone, *names_of(dist))
    )
    assert done.returncode != 0 and f"pyllama-cffi=={old.name.split('-')[1]}" in done.stderr


def write_core(folder: Path, version: str) -> Path:
    """A wheel that is called like the core, and empty."""
    info = f"pyllama_cffi-{version}.dist-info"
    wheel = folder / f"pyllama_cffi-{version}-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: pyllama-cffi\nVersion: {version}\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def test_pip_does_not_refuse_another_core_below_a_plugin(dist: Path, tmp_path: Path) -> None:
    """It says that they conflict and installs it: only the identity refuses then, when pyllama loads."""
    made = Environment(tmp_path / "environment")
    made.install(dist, "--no-deps", "pyllama-cffi", names_of(dist)[0])
    done = made.run("pip", "install", "--no-index", write_core(tmp_path, "99"))
    assert done.returncode == 0 and "but you have pyllama-cffi 99" in done.stderr
    assert made.run("pip", "check").returncode != 0

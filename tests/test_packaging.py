"""`pip install`: what a wheel holds, that a second one is not a rebuild, other choices, editable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from real_builds import SUFFIX, TestBuild

from pyllama.builder.paths import locate

NOT_IN_THE_SDIST = (".ci/", ".github/", "benchmarks/")
# What a used checkout holds besides.
FOREIGN = (
    *("build/lint/patches/one/feature.toml", "build/x/vendor/pins.toml", "dist/one.whl"),
    *(".nox/tests/lib/patches/series.toml", ".venv/patches/series.toml", "vendor/2026-10/CMakeLists.txt"),
)
SDIST = """
import os, sys
os.chdir(sys.argv[1])
from scikit_build_core.build import build_sdist
build_sdist(sys.argv[2])
"""
ROOT = Path(__file__).resolve().parents[1]
# A clone called like an unpacked sdist, `pyllama-main` say, has its wheels kept by pip for ever.
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "-q")


def run(*command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYLLAMA_", "PYTHONPATH"))}
    if "PYLLAMA_CACHE" in os.environ:
        clean["PYLLAMA_CACHE"] = os.environ["PYLLAMA_CACHE"]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env={**clean, **env}, check=False
    )


def make_wheel(out: Path, *settings: str) -> Path:
    choices = [f"-Ccmake.define.{setting}" for setting in settings]
    done = run(sys.executable, *PIP, "wheel", "--no-build-isolation", "--no-deps", "-w", out, *choices, ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_module_libraries_plugin_headers_and_stack(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wheel.name.startswith("pyllama_cffi-") and "-cp310-abi3-" in wheel.name
    wanted = {f"pyllama/_build/lib/lib{name}{SUFFIX}" for name in ("llama", "ggml", "ggml-base")}
    wanted |= {
        "pyllama/_build/lib/libggml-cpu.so",
        "pyllama/_build/build.json",
        "pyllama/_build/include/llama.h",
        "pyllama/lib.pyi",
        "pyllama/py.typed",
    }
    wanted |= {"pyllama/_build/python/_pyllama.abi3.so", "pyllama/_build/licenses/LICENSE-llama.cpp"}
    wanted |= {"pyllama/_data/pins.toml", "pyllama/_data/patches/series.toml"}
    wanted |= {"pyllama/_data/patches/view-copy/hooks/2026.patch", "pyllama/native/csrc/pyllama_shim.c"}
    assert not wanted - names
    notices = [name for name in names if name.endswith(("THIRD_PARTY_NOTICES.md", "licenses/LICENSE"))]
    assert len(notices) == 2
    assert not [name for name in names if "/bin/" in name or name.startswith(("tests", "vendor"))]


def test_no_path_of_the_checkout_is_in_the_wheel(wheel: Path) -> None:
    package = zipfile.ZipFile(wheel)
    assert not [name for name in package.namelist() if str(ROOT).encode() in package.read(name)]


def test_a_second_wheel_builds_nothing(wheel: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in locate().builds.glob("*/build.json")}
    again = make_wheel(tmp_path)
    assert {p: p.stat().st_mtime_ns for p in locate().builds.glob("*/build.json")} == before
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()


def test_choice_of_features(stock_build: TestBuild, tmp_path: Path) -> None:
    choice = ("PYLLAMA_FEATURES=none", "PYLLAMA_CHAT=OFF", f"PYLLAMA_PIN={stock_build.pin}")
    wheel = make_wheel(tmp_path / "w", *choice)
    done = run(sys.executable, *PIP, "install", "--no-deps", "--target", tmp_path / "site", wheel)
    assert done.returncode == 0, done.stderr
    code = "import pyllama; i = pyllama.build_info(); pyllama.lib; print(i.features, i.folder)"
    done = run(sys.executable, "-c", code, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"() {tmp_path / 'site' / 'pyllama' / '_build'}"), done.stderr


def test_an_sdist_of_a_used_checkout_holds_what_git_does(tmp_path: Path) -> None:
    listed = run("git", "-C", ROOT, "ls-files", "-z")
    if listed.returncode != 0:
        pytest.skip("this is no checkout of git, which says what belongs to it")
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    checkout = tmp_path / "checkout"
    for name in tracked:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, checkout / name)
    for name in FOREIGN:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    done = run(sys.executable, "-c", SDIST, checkout, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert names - {"PKG-INFO"} == {name for name in tracked if not name.startswith(NOT_IN_THE_SDIST)}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("cmake.define.PYLLAMA_PIN=1999-01", "1999-01"),
        ("cmake.define.PYLLAMA_FEATURES=no-such", "no feature 'no-such'"),
        ("cmake.define.PYLLAMA_BACKENDS=abacus", "no backend is called 'abacus'"),
        ("cmake.define.PYLLAMA_BUILT=/no/such", "/no/such is not a finished build"),
        ("no-such-setting=1", "no-such-setting"),
    ],
)
def test_wrong_choices_are_said(tmp_path: Path, setting: str, message: str) -> None:
    done = run(
        *(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", tmp_path),
        *(f"-C{setting}", ROOT),
    )
    assert done.returncode != 0
    assert message in done.stderr + done.stdout


def test_editable(tmp_path: Path) -> None:
    """In a new environment that sees this one's packages, but not its pyllama first."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    (site / "zz-parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = run(python, *PIP, "install", "--no-build-isolation", "--no-deps", "-I", "-e", ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    words = ("pyllama.__file__", "pyllama.build_info().folder", "pyllama.lib.llama_max_devices()")
    done = run(python, "-c", f"import pyllama; print({', '.join(words)})")
    source, build, count = done.stdout.split()
    assert Path(source) == ROOT / "pyllama" / "__init__.py"
    assert build.startswith(str(site)) and int(count) > 0

"""The wheels as they are made: what is in them, what they need, whose paths, and the same bytes again."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path, PurePosixPath

import pytest
from backend_wheels.project import version
from cyclonedx.spdx import is_expression
from elftools.elf.elffile import ELFFile
from making import BACKENDS, BUILD, ROOT, clean, make

from pyllama.builder import third_party
from pyllama.builder.paths import cache_dir
from pyllama.builder.verify import elf

pytestmark = pytest.mark.wheels

# What a wheel is made from beside the folders.
CMAKE = ("CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY_NOTICES.md")
# Of manylinux' policy; what else the core needs has to be inside.
SYSTEM = re.compile(r"(lib(c|m|dl|pthread|rt|stdc\+\+|gcc_s)|ld-linux.*)\.so\.\d+")


def parts(dist: Path) -> list[Path]:
    """The wheels of the backends beside the CPU."""
    return [wheel for wheel in sorted(dist.glob("*.whl")) if not wheel.name.startswith("pyllama_cffi-")]


def core(dist: Path) -> Path:
    (wheel,) = dist.glob("pyllama_cffi-*.whl")
    return wheel


def binaries(wheel: Path, out: Path) -> dict[str, elf.Library]:
    """Every library of a wheel, read."""
    zipfile.ZipFile(wheel).extractall(out)
    found = {}
    for path in sorted(out.rglob("*")):
        library = elf.read(path) if path.is_file() else None
        if library is not None:
            found[path.relative_to(out).as_posix()] = library
    return found


def test_one_wheel_for_the_core_and_one_for_each_other_backend(dist: Path) -> None:
    own = re.escape(version())
    assert re.fullmatch(rf"pyllama_cffi-{own}-cp310-abi3-manylinux_2_\d+_\w+\.whl", core(dist).name)
    others = [name for name in BACKENDS if not name.startswith("cpu")]
    assert len(parts(dist)) == len(others) > 0
    for name, wheel in zip(sorted(others), parts(dist), strict=True):
        assert re.fullmatch(rf"pyllama_cffi_{name}\d*-{own}-py3-none-manylinux_2_\d+_\w+\.whl", wheel.name)


def test_the_core_lists_what_is_inside_and_nothing_else(dist: Path) -> None:
    package = zipfile.ZipFile(core(dist))
    build = "pyllama/_build/"
    info = json.loads(package.read(f"{build}build.json"))
    rows = (row for row in package.infolist() if row.filename.startswith(build) and not row.is_dir())
    sizes = {row.filename.removeprefix(build): row.file_size for row in rows}
    assert info["files"] == {name: size for name, size in sizes.items() if name != "build.json"}
    libraries = {PurePosixPath(name).stem.removeprefix("lib") for name in sizes if name.startswith("lib/")}
    assert libraries == {"llama", "ggml", "ggml-base", "pyllama-chat", *info["plugins"]}
    assert all(name.startswith("cpu") for name in info["backends"])
    told = json.loads(package.read(f"{build}provenance.json"))
    assert {row["file"] for row in told["libraries"] if row["file"].startswith("lib/")} == {
        name for name in sizes if name.startswith("lib/")
    }


def test_the_provenance_says_what_the_libraries_need_now(dist: Path, tmp_path: Path) -> None:
    read = binaries(core(dist), tmp_path)
    told = json.loads((tmp_path / "pyllama/_build/provenance.json").read_text())
    assert {row["file"]: tuple(row["needs"]) for row in told["libraries"]} == {
        name.removeprefix("pyllama/_build/"): library.needed
        for name, library in read.items()
        if name.startswith("pyllama/_build/")
    }


def test_a_backends_wheel(dist: Path) -> None:
    info = json.loads(zipfile.ZipFile(core(dist)).read("pyllama/_build/build.json"))
    for wheel in parts(dist):
        package = zipfile.ZipFile(wheel)
        name = wheel.name.partition("-")[0]
        head = "-".join(wheel.name.split("-")[:2])
        table = json.loads(package.read(f"{name}/plugin.json"))
        assert {key: table[key] for key in ("pin", "commit", "key", "build_key", "identity")} == {
            key: info[key] for key in ("pin", "commit", "key", "build_key", "identity")
        }
        metadata = message_from_bytes(package.read(f"{head}.dist-info/METADATA"))
        assert metadata["Name"] == name.replace("_", "-")
        assert f"pyllama-cffi=={metadata['Version']}" in metadata.get_all("Requires-Dist", [])
        entry = package.read(f"{head}.dist-info/entry_points.txt").decode()
        assert entry.split() == ["[pyllama.backends]", table["backend"], "=", f"{name}:FOLDER"]
        inside = {n for n in package.namelist() if n.startswith(f"{name}/")}
        assert inside - {f"{name}/"} == {
            f"{name}/{file}" for file in ("__init__.py", "plugin.json", table["library"])
        }
        texts = {PurePosixPath(n).name: package.read(n) for n in package.namelist() if "/licenses/" in n}
        assert set(metadata.get_all("License-File", [])) == {text for text in texts if text}
        assert b"Permission is hereby granted" in texts["LICENSE-llama.cpp"]


def test_the_licences_of_grafted_libraries_are_inside(dist: Path) -> None:
    for wheel in (core(dist), *parts(dist)):
        names = zipfile.ZipFile(wheel).namelist()
        grafted = [name for name in names if PurePosixPath(name).parent.suffix == ".libs"]
        added = [name for name in names if "/licenses/LICENSE-lib" in name]
        assert len(added) == len(grafted)
        (file,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        said = message_from_bytes(zipfile.ZipFile(wheel).read(file)).get_all("License-Expression", [])
        assert (len(said) == 1 and is_expression(said[0])) or said == ["MIT"]
        assert said[0].startswith("MIT AND ") or not grafted
        if any("libgomp" in name or "libgfortran" in name for name in grafted):
            assert "GPL-3.0-or-later WITH GCC-exception-3.1" in said[0]
            assert any(name.endswith("/licenses/LICENSE-GPL-3") for name in names)
    assert any("libgomp" in name for name in zipfile.ZipFile(core(dist)).namelist())


@pytest.mark.parametrize(
    "work", [work for work in third_party.WORKS if work.outside], ids=lambda work: work.name
)
def test_the_licences_of_headers_that_are_compiled_in_are_inside(work: third_party.Work, dist: Path) -> None:
    wheels = [wheel for wheel in parts(dist) if f"_{work.library.removeprefix('ggml-')}" in wheel.name]
    if not wheels:
        pytest.skip(f"no wheel of {work.library} was made: name it in PYLLAMA_TEST_WHEELS")
    package = zipfile.ZipFile(wheels[0])
    (file,) = (name for name in package.namelist() if name.endswith(".dist-info/METADATA"))
    (said,) = message_from_bytes(package.read(file)).get_all("License-Expression", [])
    assert set(work.license.split(" AND ")) <= set(said.split(" AND "))
    assert any(name.endswith(f"/licenses/LICENSE-{work.name}") for name in package.namelist())


def test_libraries_need_what_is_inside_or_of_the_policy_or_the_core(dist: Path, tmp_path: Path) -> None:
    read = binaries(core(dist), tmp_path / "core")
    own = {PurePosixPath(name).name for name in read}
    assert len(own) >= 6
    for library in read.values():
        assert not [name for name in library.needed if name not in own and not SYSTEM.fullmatch(name)]
    for wheel in parts(dist):
        read = binaries(wheel, tmp_path / wheel.stem)
        inside = {PurePosixPath(name).name for name in read}
        foreign = re.compile(r"lib(ggml-base|vulkan|OpenCL|cuda|cudart|cublas|cublasLt)\.so.*")
        for library in read.values():
            strange = [n for n in library.needed if n not in inside and not SYSTEM.fullmatch(n)]
            assert not [name for name in strange if not foreign.fullmatch(name)]


def test_libraries_are_stripped(dist: Path, tmp_path: Path) -> None:
    """Names that only a debugger asks for are a sixth of libllama."""
    for wheel in (core(dist), *parts(dist)):
        out = tmp_path / wheel.stem
        for name in binaries(wheel, out):
            with (out / name).open("rb") as file:
                assert ELFFile(file).get_section_by_name(".symtab") is None, name


def test_run_paths_start_at_the_library_and_lead_to_what_it_needs(dist: Path, tmp_path: Path) -> None:
    for wheel in (core(dist), *parts(dist)):
        out = tmp_path / wheel.stem
        for name, library in binaries(wheel, out).items():
            assert all(re.match(r"\$ORIGIN(/|$)", path) for path in library.run_paths), name
            folder = (out / name).parent
            places = [
                (folder / path.removeprefix("$ORIGIN").lstrip("/")).resolve() for path in library.run_paths
            ]
            for needed in library.needed:
                if list(out.rglob(needed)):
                    assert any((place / needed).is_file() for place in places), f"{name} needs {needed}"


def test_auditwheel_agrees_with_the_tag(dist: Path) -> None:
    command = [sys.executable, "-m", "auditwheel", "show", str(core(dist))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tag = core(dist).stem.rpartition("-")[2]
    assert f'is consistent with the following platform tag: "{tag}"' in " ".join(done.stdout.split())


def foreign_texts() -> Iterator[bytes]:
    """Folders of this machine that have no place in a wheel."""
    for path in (ROOT, cache_dir(), Path(sys.prefix)):
        yield f"{path}/".encode()
        yield f"{path.resolve()}/".encode()


def test_no_folder_of_this_machine_is_in_a_wheel(dist: Path) -> None:
    for wheel in (core(dist), *parts(dist)):
        package = zipfile.ZipFile(wheel)
        for name in package.namelist():
            data = package.read(name)
            assert not [text for text in foreign_texts() if text in data], name
            generated = "_build/" in name or name.startswith("pyllama_cffi") or data[:4] == b"\x7fELF"
            if generated:  # in sources of ours, such words are about other things
                home = f"{Path.home()}/".encode()
                assert not [text for text in (b"/tmp/", home) if text in data], name


def test_the_same_bytes_again_from_another_folder(dist: Path, tmp_path: Path) -> None:
    make(tmp_path / "again", cwd=tmp_path)
    assert bytes_of(tmp_path / "again") == bytes_of(dist)


@pytest.mark.skipif(bool(BUILD), reason="the build is given, with PYLLAMA_TEST_WHEELS_BUILD")
def test_the_same_bytes_from_a_build_made_in_another_checkout(dist: Path, tmp_path: Path) -> None:
    """Compiles everything once more: minutes. Only the sources are taken from the cache."""
    other = tmp_path / "elsewhere"
    other.mkdir()
    for name in ("packaging", "patches", "pyllama", "vendor/pins.toml", *CMAKE):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        (other / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, other / name)
    cache = tmp_path / "cache"
    cache.mkdir()
    shutil.copytree(cache_dir() / "objects.git", cache / "objects.git")
    make(tmp_path / "again", root=other, PYLLAMA_CACHE=str(cache), CCACHE_DISABLE="1")
    assert list((cache / "builds").glob("*/build.json"))  # it was made there
    assert bytes_of(tmp_path / "again") == bytes_of(dist)


def bytes_of(dist: Path) -> dict[str, bytes]:
    return {wheel.name: wheel.read_bytes() for wheel in dist.glob("*.whl")}


def test_older_wheels_go_and_other_files_stay(dist: Path, tmp_path: Path) -> None:
    (tmp_path / "pyllama_cffi_cuda13-0.0.1-py3-none-any.whl").write_bytes(b"")
    (tmp_path / "numpy-2-py3-none-any.whl").write_bytes(b"")
    make(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *(wheel.name for wheel in dist.glob("*.whl")),
        "numpy-2-py3-none-any.whl",
    }


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("abacus",), 2, "no backend is called 'abacus'"),
        (("--pin", "1999-01"), 2, "1999-01"),
        (("--build", "."), 2, "is not a finished build"),
        (("--build", ".", "rpc"), 2, "leave those out"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    refused(tmp_path, *arguments, code=code, message=message)


def test_a_build_for_tests_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "build.json").write_text(json.dumps({"flavour": "asan", "files": {"a": 1}}))
    refused(tmp_path, "--build", str(tmp_path), code=2, message="name one of the flavour release")


def refused(folder: Path, *arguments: str, code: int, message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "backend_wheels", "--out", str(folder / "dist"), *arguments],
        cwd=folder,
        env={**clean(), "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "packaging")))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code and message in done.stderr and done.stderr.count("\n") == 1
    assert not (folder / "dist").exists()

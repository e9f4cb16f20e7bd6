"""The table of backends, what they need of this machine, and the headers that we supply."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from real_builds import TestBuild

from pyllama import extras
from pyllama.builder.compile import backends, cuda, hip, needs, supplies
from pyllama.builder.compile.backends import Need
from pyllama.builder.compile.made_with import made_with
from pyllama.builder.compile.toolchain import Compilers, find_compilers
from pyllama.builder.paths import Paths, locate
from pyllama.builder.pins import Lock
from pyllama.builder.progress import Reporter
from pyllama.errors import BuildError, FetchError, UsageError, VerificationError

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def compilers() -> Compilers:
    return find_compilers()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return replace(locate(), cache=tmp_path / "cache")


def names(*wanted: str) -> list[str]:
    return [row.name for row in backends.select(list(wanted))]


def test_a_cpu_is_always_there_and_first() -> None:
    assert names() == ["cpu"]
    assert names("rpc", "blas") == ["cpu", "blas", "rpc"]
    assert names("rpc", "cpu-all") == ["cpu-all", "rpc"]


def test_what_cannot_be_chosen() -> None:
    with pytest.raises(UsageError, match="cpu and cpu-all exclude each other"):
        names("cpu", "cpu-all")
    elsewhere = "metal" if sys.platform != "darwin" else "cuda"
    with pytest.raises(UsageError, match=f"{elsewhere} .* cannot be built here: it is for "):
        names(elsewhere)


def test_auto_is_what_the_machine_looks_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(detect: str) -> backends.Backend:
        return replace(backends.table()["vulkan"], detect=(detect,), systems=())

    (tmp_path / "renderD128").touch()
    for pattern, found in (("renderD*", True), ("renderD128", True), ("nvidia*", False), ("kfd", False)):
        assert row(str(tmp_path / pattern)).detected is found
    assert not replace(row(str(tmp_path / "renderD*")), systems=("plan9",)).detected
    rows = {"cpu": backends.table()["cpu"], "vulkan": row(str(tmp_path / "renderD*"))}
    monkeypatch.setattr(backends, "table", lambda: rows)
    assert names("auto") == ["cpu", "vulkan"]
    (tmp_path / "renderD128").unlink()
    assert names("auto") == ["cpu"]


def test_advice_is_no_part_of_a_key() -> None:
    row = backends.table()["vulkan"]
    assert replace(row, title="x", device="x", runs_with=(), detect=()).decides == row.decides
    assert replace(row, options=(("GGML_VULKAN", "OFF"),)).decides != row.decides
    assert row.decides["supplied"] == [supplies.table()["vulkan-headers"].sha256]


@pytest.mark.matrix
def test_every_row_is_a_backend_of_the_pin(patched_build: TestBuild, lock: Lock) -> None:
    """Target and switch are in upstream's lists; finer options, which old pins ignore, in the newest."""
    ggml = patched_build.tree / "ggml"
    files = [ggml / "CMakeLists.txt", *ggml.glob("src/*/CMakeLists.txt")]
    lists = "\n".join(path.read_text(encoding="utf-8") for path in files)
    for row in backends.table().values():
        folder = "ggml-cpu" if row.kind == "cpu" else row.target
        assert (ggml / "src" / folder / "CMakeLists.txt").is_file(), row.name
        switch = folder.replace("-", "_").upper()
        assert switch in dict(row.options), row.name
        for option, _ in row.options:
            if option == switch or patched_build.pin == lock.default:
                assert option in lists, (row.name, option)


def test_an_extra_of_ours_is_said_as_a_command() -> None:
    (need,) = backends.table()["cuda"].needs
    assert needs.advice(need).startswith(f"{extras.install('cuda13')} or https://")


@pytest.mark.parametrize("row", backends.table().values(), ids=lambda row: row.name)
def test_every_need_says_how_it_is_met(row: backends.Backend) -> None:
    for need in row.needs:
        assert needs.advice(need) != "get it from its vendor"
        assert need.kind in ("program", "header", "library", "flag", "cuda", "hip")
        assert not need.supply or need.supply in supplies.table()


# --- what the compiler says ---


def need(kind: str, name: str, macro: str = "") -> backends.Backend:
    row = Need(kind, name, (("apt", f"apt-get install {name}"), ("page", "https://x.org")), macro)
    return replace(backends.table()["vulkan"], needs=(row,))


def test_programs_libraries_flags(
    compilers: Compilers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = needs.missing(need("program", "no-such-program"), compilers)
    assert len(lacking) == 1 and "no-such-program (apt-get install no-such-program" in str(lacking[0])
    assert needs.missing(need("program", "git"), compilers) == []
    assert needs.missing(need("flag", "-fpyllama"), compilers)
    assert needs.missing(need("flag", "-fno-rtti"), compilers) == []
    own = need("library", "ours_alone")
    assert "the library ours_alone" in str(needs.missing(own, compilers)[0])
    command = [compilers.cc, "-shared", "-x", "c", "-", "-o", str(tmp_path / "libours_alone.so")]
    subprocess.run(command, input="", text=True, check=True)
    monkeypatch.setenv("LIBRARY_PATH", str(tmp_path))
    assert needs.missing(own, compilers) == []


def test_a_header_that_is_missing_or_too_old(
    compilers: Compilers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = need("header", "ours/alone.h", macro="OURS_NEW")
    assert "too old" not in str(needs.missing(row, compilers)[0])
    monkeypatch.setenv("CPATH", str(tmp_path))
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/alone.h").write_text("#define OURS_OLD 1\n")
    assert "ours/alone.h is too old (" in str(needs.missing(row, compilers)[0])
    (tmp_path / "ours/alone.h").write_text("#define OURS_NEW 1\n")
    assert needs.missing(row, compilers) == []


@pytest.mark.parametrize("variable", ["CMAKE_PREFIX_PATH", "VULKAN_SDK", ""])
def test_what_lies_where_cmake_looks(
    variable: str, compilers: Compilers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vendor's folder, named by a variable or usual, is as good as the system's."""
    sdk = tmp_path / "sdk"
    for name in ("bin", "include", "lib"):
        (sdk / name).mkdir(parents=True)
    (sdk / "bin/ours").write_text("#!/bin/sh\necho 'ours 7'\n")
    (sdk / "bin/ours").chmod(0o755)
    (sdk / "include/ours.h").write_text("#define OURS 1\n")
    command = [compilers.cc, "-shared", "-x", "c", "-", "-o", str(sdk / "lib/libours.so")]
    subprocess.run(command, input="", text=True, check=True)
    needed = tuple(
        need(kind, name).needs[0]
        for kind, name in (("program", "ours"), ("header", "ours.h"), ("library", "ours"))
    )
    usual = ("$VULKAN_SDK",) if variable else (str(sdk),)
    row = replace(backends.table()["vulkan"], needs=needed, places=usual)
    if variable:
        assert len(needs.missing(row, compilers)) == 3
        monkeypatch.setenv(variable, f"/nowhere{os.pathsep}{sdk}" if "PREFIX" in variable else str(sdk))
    assert needs.missing(row, compilers) == []
    said = made_with(row, compilers)
    assert said["ours"] == "ours 7" and said["ours.h"] != "none"


def test_everything_that_is_missing_is_said_at_once(compilers: Compilers, paths: Paths) -> None:
    row = replace(
        backends.table()["vulkan"],
        needs=(*need("program", "no-such-program").needs, *need("library", "no_such_library").needs),
    )
    with pytest.raises(BuildError, match=r"vulkan cannot be built: no-such-program.*no_such_library"):
        needs.meet([row], compilers, paths, QUIET)


# --- supplies ---


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A mirror on this machine, of which apt is said to speak."""
    root = tmp_path / "mirror"
    root.mkdir()
    handler = functools.partial(_Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        site = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(supplies, "mirrors", lambda: (f"{site}/empty", site))
        yield root
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is Debian's")


def package(root: Path, text: str = "#define NEW 1\n") -> supplies.Supply:
    content = root.parent / "content"
    (content / "DEBIAN").mkdir(parents=True)
    (content / "DEBIAN/control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@localhost>\nDescription: x\n"
    )
    (content / "usr/include").mkdir(parents=True)
    (content / "usr/include/new.h").write_text(text)
    subprocess.run(["dpkg-deb", "-b", content, root / "x.deb"], check=True, capture_output=True)
    digest = hashlib.sha256((root / "x.deb").read_bytes()).hexdigest()
    return supplies.Supply("x", "X headers", "x.deb", digest, "usr/include", "X_DIR", "MIT", "")


@needs_dpkg
def test_a_supply_is_fetched_once_from_the_mirror_that_has_it(mirror: Path, paths: Paths) -> None:
    supply = package(mirror)
    folder = supplies.provide(supply, paths, QUIET)
    assert (folder / "new.h").read_text() == "#define NEW 1\n" and paths.cache in folder.parents
    (mirror / "x.deb").unlink()
    assert supplies.provide(supply, paths, QUIET) == folder


@needs_dpkg
def test_another_package_than_the_locked_is_refused(mirror: Path, paths: Paths) -> None:
    supply = replace(package(mirror), sha256="0" * 64)
    with pytest.raises((VerificationError, FetchError), match="0000"):
        supplies.provide(supply, paths, QUIET)
    assert not list((paths.cache / "supplies").glob("x-*"))


@needs_dpkg
def test_a_package_without_the_folder_or_none_at_all(mirror: Path, paths: Paths) -> None:
    supply = package(mirror)
    with pytest.raises(BuildError, match="has no usr/other"):
        supplies.provide(replace(supply, folder="usr/other"), paths, QUIET)
    (mirror / "x.deb").write_bytes(b"no package")
    digest = hashlib.sha256(b"no package").hexdigest()
    with pytest.raises(BuildError, match="cannot be unpacked"):
        supplies.provide(replace(supply, sha256=digest), paths, QUIET)
    (mirror / "x.deb").unlink()
    with pytest.raises(FetchError, match=r"X headers cannot be fetched .*install newer headers yourself"):
        supplies.provide(supply, paths, QUIET)
    assert list((paths.cache / "supplies").iterdir()) == []


@pytest.mark.skipif(not supplies.available(), reason="only a Debian machine can take Debian's packages")
@pytest.mark.parametrize("supply", supplies.table().values(), ids=lambda row: row.name)
def test_every_real_supply_meets_the_need(
    supply: supplies.Supply, compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = supplies.provide(supply, locate(), QUIET)
    monkeypatch.setenv("CPATH", str(folder))
    rows = [row for row in backends.table().values() if any(n.supply == supply.name for n in row.needs)]
    assert rows
    for row in rows:
        needed = tuple(n for n in row.needs if n.supply == supply.name)
        monkeypatch.setattr(supplies, "available", lambda: False)
        assert needs.missing(replace(row, needs=needed), compilers) == []


# --- CUDA ---


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """NVIDIA's packages as they lie in site-packages, without what is large in them."""
    root = tmp_path / "site-packages/nvidia/cu13"
    for name in ("bin/nvcc", "include/cublas_v2.h", "lib/libcublas.so.13", "lib/libcudart.so.13", "nvvm/x"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    monkeypatch.setattr(cuda, "_packages", lambda: [root])
    monkeypatch.setattr(cuda, "_has_cublas", lambda nvcc, compilers: False)
    cuda.find.cache_clear()
    yield root
    cuda.find.cache_clear()


def test_packages_get_what_a_toolkit_has(
    packages: Path, paths: Paths, compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cuda.ARCHITECTURES, "86-real;90a-real")
    told = cuda.settings(paths, compilers)
    root = Path(told["CUDAToolkit_ROOT"])
    assert told["CMAKE_CUDA_ARCHITECTURES"] == "86-real;90a-real"
    assert Path(told["CMAKE_CUDA_COMPILER"]).resolve() == packages / "bin/nvcc"
    assert (root / "lib64/libcudart.so").resolve() == packages / "lib/libcudart.so.13"
    assert (root / "lib/libcublas.so").is_file() and (root / "include/cublas_v2.h").is_file()
    dynamic = subprocess.run(
        ["nm", "-D", root / "lib/stubs/libcuda.so"], capture_output=True, text=True, check=True
    )
    assert "cuMemMap" in dynamic.stdout and "cuGetErrorString" in dynamic.stdout
    assert cuda.settings(paths, compilers) == told  # nothing is made twice
    assert len(list((paths.cache / "cuda").iterdir())) == 1


def test_packages_without_cublas_are_no_toolkit(packages: Path, compilers: Compilers) -> None:
    (packages / "lib/libcublas.so.13").unlink()
    assert cuda.find(compilers) is None


@pytest.mark.parametrize("text", ["native", "all", "86-real,90", "sm_90", "-DX=1", "86;rm"])
def test_architectures_are_checked(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cuda.ARCHITECTURES, text)
    with pytest.raises(UsageError, match="is no list such as"):
        cuda.architectures()


def test_without_a_gpu_somebody_has_to_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(cuda.ARCHITECTURES, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no NVIDIA GPU answers here: set PYLLAMA_CUDA_ARCHITECTURES"):
        cuda.architectures()
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 8.6\necho 9.0\necho 8.6\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert cuda.architectures() == "86-real;90-real"
    smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    with pytest.raises(UsageError):
        cuda.architectures()


# --- HIP ---


def says(folder: Path, name: str, *lines: str) -> None:
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / name).write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    (folder / "bin" / name).chmod(0o755)


@pytest.fixture
def rocm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like `/opt/rocm`, in which a program says what a real one does."""
    monkeypatch.delenv(hip.ARCHITECTURES, raising=False)
    monkeypatch.setenv("ROCM_PATH", str(tmp_path))
    says(tmp_path, "hipcc", "HIP version: 6.4.43482-0f2d60242", "AMD clang version 19.0.0git")
    return tmp_path


@pytest.fixture
def hip_row() -> backends.Backend:
    row = backends.table()["hip"]
    return replace(row, needs=tuple(need for need in row.needs if need.kind == "hip"))


def test_hip_of_an_old_version(rocm: Path, hip_row: backends.Backend, compilers: Compilers) -> None:
    assert needs.missing(hip_row, compilers) == []
    says(rocm, "hipcc", "HIP version: 5.2.21153-0")
    assert "hipcc is too old (" in str(needs.missing(hip_row, compilers)[0])
    (rocm / "bin/hipcc").unlink()
    assert "too old" not in str(needs.missing(hip_row, compilers)[0])


def test_hip_compiles_for_the_gpus_that_are_here(
    rocm: Path, hip_row: backends.Backend, compilers: Compilers, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no AMD GPU answers here: set PYLLAMA_HIP_ARCHITECTURES"):
        needs.meet([hip_row], compilers, paths, QUIET)
    says(rocm, "rocm_agent_enumerator", "gfx000", "gfx1100", "gfx90a", "gfx1100")
    assert needs.meet([hip_row], compilers, paths, QUIET) == {"CMAKE_HIP_ARCHITECTURES": "gfx1100;gfx90a"}
    here = made_with(hip_row, compilers)["hipcc"]
    assert "gfx1100;gfx90a" in here and "6.4" in here
    monkeypatch.setenv(hip.ARCHITECTURES, "gfx1030;gfx90a:xnack-;gfx11-generic")
    assert needs.meet([hip_row], compilers, paths, QUIET) == {
        "CMAKE_HIP_ARCHITECTURES": "gfx1030;gfx90a:xnack-;gfx11-generic"
    }
    assert made_with(hip_row, compilers)["hipcc"] != here


@pytest.mark.parametrize("text", ["native", "1100", "gfx1030,gfx1100", "gfx1030;rm", "-DX=1"])
def test_hip_architectures_are_checked(text: str, rocm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hip.ARCHITECTURES, text)
    with pytest.raises(UsageError, match="is no list such as gfx1030;gfx1100"):
        hip.architectures([rocm])

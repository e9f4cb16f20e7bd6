"""The CUDA toolkit: the system's, or NVIDIA's packages of the package index.

Those packages hold no unversioned links, no `lib64` and no stub of the driver's library, all of which
CMake and nvcc look for: a folder of symbolic links in the cache gives them what they expect.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ... import extras
from ...errors import BuildError, UsageError
from ..paths import Paths
from .toolchain import Compilers

ARCHITECTURES = "PYLLAMA_CUDA_ARCHITECTURES"
_ARCHITECTURE = re.compile(r"\d{2,3}[af]?(-real|-virtual)?")
# What ggml calls of the driver; the real library is on the machine that runs it.
_DRIVER = (
    *("cuGetErrorString", "cuDeviceGet", "cuDeviceGetAttribute", "cuMemCreate", "cuMemRelease"),
    *("cuMemAddressReserve", "cuMemAddressFree", "cuMemMap", "cuMemUnmap", "cuMemSetAccess"),
    *("cuMemGetAllocationGranularity",),
)
# Where the packages' libraries lie, seen from a plug-in in our wheel and in one of its own.
RUN_PATHS = ("$ORIGIN/../../../nvidia/cu13/lib", "$ORIGIN/../nvidia/cu13/lib")


@dataclass(frozen=True)
class Toolkit:
    """Where nvcc is; `packaged` is the folder of NVIDIA's packages when it is theirs."""

    nvcc: Path
    packaged: Path | None


@cache
def find(compilers: Compilers) -> Toolkit | None:
    """Return the toolkit that CUDACXX, PATH, the usual folder or the package index gave, in this order.

    An nvcc without cuBLAS, or one that refuses the C++ compiler, is passed over: ggml needs all three.
    """
    for name in (os.environ.get("CUDACXX"), "nvcc", "/usr/local/cuda/bin/nvcc"):
        found = shutil.which(name) if name else None
        if found and _has_cublas(found, compilers):
            return Toolkit(Path(found), None)
    for folder in _packages():
        nvcc = folder / "bin" / "nvcc"
        if nvcc.is_file() and list((folder / "lib").glob("libcublas.so.*")):
            return Toolkit(nvcc, folder)
    return None


def _has_cublas(nvcc: str, compilers: Compilers) -> bool:
    text = "#include <cublas_v2.h>\n"
    command = [nvcc, "-ccbin", compilers.cxx, "-x", "cu", "-E", "-", "-o", os.devnull]
    return subprocess.run(command, input=text, text=True, capture_output=True, check=False).returncode == 0


def _packages() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec else None
    return [folder for place in places or () for folder in sorted(Path(place).glob("cu*"), reverse=True)]


def architectures() -> str:
    """Return for which GPUs to compile, as CMake says it: the user's choice, or those of the GPUs here.

    Raises UsageError when neither is known: `native` without a GPU would silently mean one from 2018.
    """
    chosen = os.environ.get(ARCHITECTURES, "").strip()
    if chosen:
        if not all(_ARCHITECTURE.fullmatch(word) for word in chosen.split(";")):
            raise UsageError(f"{ARCHITECTURES}={chosen} is no list such as 86-real;90-virtual: correct it")
        return chosen
    found = _gpus()
    if not found:
        raise UsageError(
            f"no NVIDIA GPU answers here: set {ARCHITECTURES} to those to compile for, for example "
            "86-real;89-real (https://developer.nvidia.com/cuda-gpus lists them)"
        )
    return ";".join(f"{number}-real" for number in found)


def choice(compilers: Compilers) -> str:
    """Return what of the toolkit and its settings decides how a build turns out.

    With NVIDIA's packages, a plug-in looks for its libraries there; with the system's toolkit, it does not.
    """
    toolkit = find(compilers)
    if toolkit is None:
        return "none"  # to be refused when it is needed
    done = subprocess.run([toolkit.nvcc, "--version"], capture_output=True, text=True, check=False)
    source = f"the packages in {toolkit.packaged.name}" if toolkit.packaged else "the system"
    return f"{architectures()} {' '.join(done.stdout.split()[-4:])} of {source}"


def _gpus() -> list[str]:
    """Return the compute capabilities of the GPUs here, without their dots."""
    program = shutil.which("nvidia-smi")
    if not program:
        return []
    command = [program, "--query-gpu=compute_cap", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = (line.strip().replace(".", "") for line in done.stdout.splitlines())
    return sorted({number for number in found if number.isdigit()}) if done.returncode == 0 else []


def settings(paths: Paths, compilers: Compilers) -> dict[str, str]:
    """Return what CMake must be told to compile with the toolkit that `find` finds.

    Raises BuildError when there is none, or the folder of links cannot be made.
    """
    toolkit = find(compilers)
    if toolkit is None:
        raise BuildError(f"no CUDA toolkit was found: {extras.install('cuda13')}")
    told = {"CMAKE_CUDA_ARCHITECTURES": architectures(), "CMAKE_CUDA_HOST_COMPILER": compilers.cxx}
    if toolkit.packaged is None:
        return {**told, "CMAKE_CUDA_COMPILER": str(toolkit.nvcc)}
    root = _linked(toolkit.packaged, paths.cache / "cuda", compilers)
    return {
        **told,
        "CMAKE_CUDA_COMPILER": str(root / "bin" / "nvcc"),
        "CUDAToolkit_ROOT": str(root),
        "PYLLAMA_CUDA_LIBRARIES": str(root / "lib"),
        "PYLLAMA_CUDA_RUN_PATHS": ";".join(RUN_PATHS),
    }


def _linked(packaged: Path, cache: Path, compilers: Compilers) -> Path:
    """Return a folder that looks like an installed toolkit and links to the packages' files."""
    listed = sorted(path.name for path in (packaged / "lib").iterdir())
    digest = hashlib.sha256("\n".join([str(packaged), *listed, *_DRIVER]).encode()).hexdigest()
    root = cache / digest[:16]
    if root.is_dir():
        return root
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=cache) as scratch:
            fresh = Path(scratch) / "root"
            (fresh / "lib" / "stubs").mkdir(parents=True)
            for name in ("bin", "include", "nvvm"):
                (fresh / name).symlink_to(packaged / name)
            for library in (packaged / "lib").iterdir():
                (fresh / "lib" / library.name).symlink_to(library)
                plain = library.name.partition(".so.")[0] + ".so"
                if ".so." in library.name and not (packaged / "lib" / plain).exists():
                    (fresh / "lib" / plain).unlink(missing_ok=True)
                    (fresh / "lib" / plain).symlink_to(library)
            (fresh / "lib64").symlink_to("lib")
            _stub(fresh / "lib" / "stubs" / "libcuda.so", compilers)
            os.replace(fresh, root)
    except OSError as error:
        if not root.is_dir():  # another process may have been faster
            raise BuildError(
                f"{root} cannot be made ({error.strerror}): see that it can be written"
            ) from error
    return root


def _stub(library: Path, compilers: Compilers) -> None:
    """Make a library with the names of the driver's, to link with; nothing ever calls it."""
    text = "".join(f"int {name}(void) {{ return 999; }}\n" for name in _DRIVER)
    command = [
        compilers.cc,
        "-shared",
        "-fPIC",
        "-Wl,-soname,libcuda.so.1",
        "-x",
        "c",
        "-",
        "-o",
        str(library),
    ]
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"the driver's stub cannot be linked: {done.stderr.strip()[-300:]}")

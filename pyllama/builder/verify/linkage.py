"""What the libraries of a build need, where they look for it, and what they tell about the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..finished import libraries
from . import elf

# Of the system, beside our own: what a C++ program with OpenMP needs on every Linux, and what drivers bring.
_ALLOWED = re.compile(
    r"lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s|gomp|omp|atomic|numa|asan|ubsan|c\+\+|c\+\+abi|unwind"
    r"|vulkan|OpenCL|cuda|cudart|cublas|cublasLt|nccl|openblas|blas|lapack|hsa-runtime64|amdhip64|hipblas"
    r"|rocblas|sycl|mkl\w*|ze_loader)\.so(\.\d+)*"
    r"|ld-linux[\w-]*\.so\.\d+|ld-musl-\w+\.so\.\d+|libc\.musl-\w+\.so\.\d+"
)


def faults(build: Path, folders: Sequence[Path]) -> Iterator[str]:
    """Say which library needs what it should not, looks elsewhere than beside itself, or names `folders`."""
    paths = libraries(build)
    own = {path.name for path in paths}
    for path in paths:
        library = elf.read(path)
        if library is None:
            continue
        for needed in library.needed:
            if needed not in own and not _ALLOWED.fullmatch(needed):
                yield f"{path.name} needs {needed}, which is neither in the build nor allowed"
        for place in library.run_paths:
            if place and not place.startswith("$ORIGIN"):
                yield f"{path.name} looks for libraries in {place}: a build must be movable"
        data = path.read_bytes()
        for folder in folders:
            if str(folder).encode() in data:
                yield f"{path.name} holds the path {folder} of this machine"

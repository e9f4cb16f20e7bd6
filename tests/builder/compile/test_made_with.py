"""A changed tool makes another key for the backends that are made with it, and for no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pyllama.builder.compile import backends, cuda
from pyllama.builder.compile.made_with import made_with
from pyllama.builder.compile.toolchain import Compilers, find_compilers
from pyllama.builder.paths import locate
from pyllama.builder.plan import make_plan

ROWS = backends.table()


@pytest.fixture(scope="module")
def compilers() -> Compilers:
    return find_compilers()


def keys() -> dict[str, str]:
    """The keys of builds with one backend each, of those that can be planned anywhere."""
    return {
        name: make_plan(locate(), backends=[name]).key for name in ("cpu", "rpc", "blas", "vulkan", "opencl")
    }


def changed(before: dict[str, str]) -> set[str]:
    return {name for name, key in keys().items() if key != before[name]}


def program(folder: Path, name: str, says: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\n")
    (folder / name).chmod(0o755)


def test_another_version_of_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    program(tmp_path / "bin", "glslc", "shaderc v2023.2")
    before = keys()
    assert changed(before) == set()
    program(tmp_path / "bin", "glslc", "shaderc v2025.1")
    assert changed(before) == {"vulkan"}


@pytest.mark.parametrize(
    ("variable", "which"),
    [
        ("VULKAN_SDK", {"vulkan"}),
        ("CMAKE_PREFIX_PATH", {"vulkan", "blas", "opencl"}),
        ("PKG_CONFIG_PATH", {"vulkan", "blas", "opencl"}),
        ("ROCM_PATH", set()),
    ],
)
def test_variables_that_choose_what_is_found(
    variable: str, which: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    before = keys()
    monkeypatch.setenv(variable, "/opt/other")
    assert changed(before) == which


def test_another_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilers: Compilers) -> None:
    row = replace(
        ROWS["vulkan"], needs=tuple(need for need in ROWS["vulkan"].needs if need.name == "vulkan/vulkan.h")
    )
    monkeypatch.setenv("CPATH", str(tmp_path))
    (tmp_path / "vulkan").mkdir()
    header = tmp_path / "vulkan/vulkan.h"
    said = []
    for text in ("#define VK_HEADER_VERSION 1\n", "#define VK_HEADER_VERSION 2\n", "#error no\n"):
        header.write_text(text)
        said.append(made_with(row, compilers)["vulkan/vulkan.h"])
    assert len(set(said)) == 3 and said[2] == "none"


@pytest.mark.parametrize(
    ("name", "variable"), [("hip", "ROCM_PATH"), ("sycl", "ONEAPI_ROOT"), ("vulkan", "VULKAN_SDK")]
)
def test_vendors_folders(name: str, variable: str, compilers: Compilers) -> None:
    told = made_with(ROWS[name], compilers, {variable: "/opt/one"})
    assert told[variable] == "/opt/one"
    assert variable not in made_with(ROWS[name], compilers, {"HOME": "/opt/one"})


def test_what_a_vendors_program_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilers: Compilers
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYLLAMA_HIP_ARCHITECTURES", "gfx1100")
    assert made_with(ROWS["hip"], compilers)["hipcc"] == "none"
    program(tmp_path, "hipcc", "HIP version: 6.4.1")
    assert made_with(ROWS["hip"], compilers)["hipcc"] == "gfx1100 HIP version: 6.4.1"


def test_the_core_is_made_with_nothing_of_this(compilers: Compilers) -> None:
    everything = {name: "/x" for row in ROWS.values() for name in row.environment} | {"CPATH": "/x"}
    for name in ("cpu", "cpu-all", "rpc"):
        assert made_with(ROWS[name], compilers, everything) == {}


def test_toolkits_of_one_version_from_two_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilers: Compilers
) -> None:
    """Only a plug-in made with the packages looks for its libraries in site-packages."""
    monkeypatch.setenv(cuda.ARCHITECTURES, "90-real")
    program(tmp_path, "nvcc", "Cuda compilation tools, release 13.0, V13.0.88 Build cuda_13.0")
    nvcc = tmp_path / "nvcc"
    said = []
    for toolkit in (cuda.Toolkit(nvcc, None), cuda.Toolkit(nvcc, tmp_path / "cu13")):
        monkeypatch.setattr(cuda, "find", lambda compilers, toolkit=toolkit: toolkit)
        said.append(cuda.choice(compilers))
    assert all("V13.0.88" in text and "90-real" in text for text in said) and len(set(said)) == 2


def test_nvcc_is_asked_with_the_compiler_that_it_will_work_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilers: Compilers
) -> None:
    """One that the system's own `c++` is too new for may well do with what CXX names."""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f'#!/bin/sh\n[ "$1 $2" = "-ccbin {compilers.cxx}" ]\n')
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDACXX", str(nvcc))
    cuda.find.cache_clear()
    assert cuda.find(compilers) == cuda.Toolkit(nvcc, None)
    monkeypatch.setattr(cuda, "_packages", list)
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    found = cuda.find(replace(compilers, cxx="/usr/bin/too-new"))
    assert found is None or found.nvcc != nvcc
    cuda.find.cache_clear()

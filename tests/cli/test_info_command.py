"""`pyllama info` and `pyllama devices`; programs compiled with its flags, from anywhere."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyllama

pytestmark = pytest.mark.matrix

PUBLIC = {"pin", "commit", "key", "features", "backends", "lib_dir", "include_dirs"}

IN_C = """
#include <llama.h>
#include <stdio.h>

int main(int argc, char ** argv) {
    struct llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    llama_backend_init();
    struct llama_model * model = argc > 1 ? llama_model_load_from_file(argv[1], params) : NULL;
    if (model == NULL) {
        return 1;
    }
    printf("%d\\n", llama_vocab_n_tokens(llama_model_get_vocab(model)));
    llama_model_free(model);
    return 0;
}
"""
IN_CPP = """
#include <llama-cpp.h>
#include <ggml-cpp.h>
#include <iostream>

int main(int argc, char ** argv) {
    auto params = llama_model_default_params();
    params.vocab_only = true;
    llama_backend_init();
    llama_model_ptr model(argc > 1 ? llama_model_load_from_file(argv[1], params) : nullptr);
    if (!model) {
        return 1;
    }
    ggml_context_ptr context(ggml_init({1024, nullptr, true}));
    std::cout << llama_vocab_n_tokens(llama_model_get_vocab(model.get())) << std::endl;
    return context ? 0 : 2;
}
"""


@pytest.fixture
def info(patched_build: Any, tmp_path: Path) -> Any:
    """`info(*args)`: the output of `pyllama info` of the pin under test, asked from another folder."""
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(pyllama.__file__).parents[1]),
        "PYLLAMA_BUILD": str(patched_build.folder),
    }

    def run(*args: str) -> str:
        command = [sys.executable, "-m", "pyllama", "info", *args]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


def test_json(info: Any, patched_build: Any) -> None:
    found = json.loads(info("--json"))
    assert set(found) >= PUBLIC
    assert found["pin"] == patched_build.pin
    assert len(found["commit"]) == 40 and len(found["key"]) == 64
    assert {"view-copy", "self-locating"} <= set(found["features"])
    assert found["backends"] == ["cpu"]
    assert Path(found["lib_dir"]) == patched_build.lib_dir
    assert [Path(folder) for folder in found["include_dirs"]] == patched_build.include_dirs
    assert (Path(found["include_dirs"][0]) / "llama.h").is_file()


def test_text(info: Any) -> None:
    told = dict(line.split(maxsplit=1) for line in info().splitlines())
    found = json.loads(info("--json"))
    assert set(told) >= PUBLIC
    assert told["pin"] == found["pin"] and told["key"] == found["key"]
    assert told["features"] == ", ".join(found["features"])


@pytest.mark.parametrize(
    ("variable", "compiler", "suffix", "source"), [("CC", "cc", "c", IN_C), ("CXX", "c++", "cpp", IN_CPP)]
)
def test_program_with_these_flags(
    variable: str, compiler: str, suffix: str, source: str, info: Any, test_model: Path, tmp_path: Path
) -> None:
    found = shutil.which(os.environ.get(variable) or compiler)
    if found is None:
        pytest.skip(f"no {compiler}")
    path, program = tmp_path / f"program.{suffix}", tmp_path / "program"
    path.write_text(source)
    flags, libs = shlex.split(info("--cflags")), shlex.split(info("--libs"))
    standard = ["-std=c++17"] if suffix == "cpp" else ["-std=c11", "-Werror", "-Wall"]
    command = [found, *standard, *flags, str(path), "-o", str(program), *libs]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
    clean = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    done = subprocess.run(
        [program, test_model], capture_output=True, text=True, cwd="/", env=clean, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "49152\n"), done.stderr


def test_one_line_of_flags(info: Any) -> None:
    for flag in ("--cflags", "--libs"):
        assert info(flag).count("\n") == 1


def test_devices(command_line: Any, patched_build: Any) -> None:
    build = {"PYLLAMA_BUILD": str(patched_build.folder)}
    found = json.loads(command_line("devices", "--json", **build).stdout)
    (cpu,) = [device for device in found if device["kind"] == "cpu"]
    assert cpu["name"] == "CPU" and 0 < cpu["memory_free"] <= cpu["memory_total"]
    told = command_line("devices", **build)
    assert told.stdout.startswith("CPU") and "GiB" in told.stdout and told.stderr == ""

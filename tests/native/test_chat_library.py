"""The library of chat templates: what it exports, names, and says when it is not there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from real_builds import SUFFIX, elf_only

import pyllama
from pyllama.builder.paths import locate
from pyllama.builder.plan import make_plan
from pyllama.builder.verify import elf

pytestmark = pytest.mark.matrix

NAME = f"libpyllama-chat{SUFFIX}"


@elf_only
def test_it_exports_its_functions_and_nothing_of_upstream(patched_build: Any) -> None:
    """Templates of the standard library are weak in every C++ library, and merge with everybody's."""
    done = subprocess.run(
        ["nm", "-D", "--defined-only", str(patched_build.lib_dir / NAME)],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split(maxsplit=2)[1:] for line in done.stdout.splitlines()]
    strong = {name for kind, name in rows if kind not in "VWu"}
    functions = "accept apply free grammar parse parser parser_free schema templates templates_free"
    assert strong == {"pyllama_identity", *(f"pyllama_chat_{name}" for name in functions.split())}
    standard = re.compile(r"_Z(GV|T[VIS])?Z?(N|NK)?(St|S[absiod]|9__gnu_cxx)|_ZT[IS]P?(Do)?F[a-z]+E")
    assert not [name for kind, name in rows if kind in "VWu" and not standard.match(name)]


@elf_only
def test_it_needs_the_libraries_of_its_build_and_names_no_folder(patched_build: Any) -> None:
    library = elf.read(patched_build.lib_dir / NAME)
    assert library is not None and "libllama.so" in library.needed
    data = (patched_build.lib_dir / NAME).read_bytes()
    assert str(patched_build.tree).encode() not in data
    root = Path(pyllama.__file__).parents[1]
    assert str(root).encode() not in data


def test_a_build_without_it_says_how_to_get_it(patched_build: Any, tmp_path: Path) -> None:
    build = tmp_path / "build"
    shutil.copytree(patched_build.folder, build, ignore=shutil.ignore_patterns(NAME, "bin"))
    code = (
        "import pyllama\npyllama.lib.llama_max_devices()\n"
        "try:\n    pyllama.ChatTemplate(None, 'x')\nexcept pyllama.errors.LoadError as e:\n    print(e)"
    )
    env = {**os.environ, "PYLLAMA_BUILD": str(build), "PYTHONPATH": str(Path(pyllama.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert "`pyllama build` without --no-chat" in done.stdout and "PYLLAMA_BUILD" in done.stdout


def test_flavours_that_have_it() -> None:
    paths = locate()
    assert make_plan(paths).chat and make_plan(paths, flavour="asan").chat
    assert not make_plan(paths, chat=False).chat and not make_plan(paths, flavour="abi").chat


def test_calls_from_several_threads(patched_build: Any) -> None:
    """And with an exception in each: none leaves the library."""
    code = """
import threading, pyllama
source = "{% if messages[0].content == 'e' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}"
template = pyllama.ChatTemplate(None, source)
wrong = []
def work(n):
    for i in range(20):
        try:
            text = template.apply([{"role": "user", "content": "e" if i % 2 else f"t{n}"}]).text
            if text != f"t{n}":
                wrong.append(text)
        except pyllama.errors.UsageError as error:
            if "no" not in str(error) or not i % 2:
                wrong.append(error)
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(wrong)
"""
    env = {**os.environ, "PYLLAMA_BUILD": str(patched_build.folder)}
    env["PYTHONPATH"] = str(Path(pyllama.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr

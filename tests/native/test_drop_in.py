"""The patched libraries in the place of stock ones: an unmodified llama-cpp-python, told where they are.

Upstream's build with dynamic backends would not do: nothing loads a plug-in (2025-08, 2026-05), or only one
in the executable's folder (2026-10). Feature self-locating is what makes it work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peers import llama_cpp_python
from real_builds import TestBuild

from pyllama.builder.pins import Lock

pytestmark = pytest.mark.backends

PROMPT = "Once upon a time"
PEER = """
import json, sys, llama_cpp
model = llama_cpp.Llama(sys.argv[1], n_ctx=256, n_threads=2, seed=1, verbose=False)
done = model.create_completion(sys.argv[2], max_tokens=32, temperature=0)
print(json.dumps([llama_cpp.__version__, done["choices"][0]["text"]]))
"""
# Its defaults: no flash attention, which at 2025-08 is off everywhere.
OURS = """
from pyllama import lib
off = getattr(lib, "LLAMA_FLASH_ATTN_TYPE_DISABLED", None)
context = pyllama.Model(MODEL).context(
    n_ctx=256, n_batch=512, threads=2, **({} if off is None else {"flash_attn_type": off})
)
print(json.dumps(pyllama.generate(context, sys.argv[1], max_tokens=32, temperature=0).text))
"""


@pytest.fixture(scope="module")
def peer(lock: Lock, pin: str | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_cpp_python(lock.pin(pin), tmp_path_factory.mktemp("peer"))


def run_peer(peer: Path, build: TestBuild, model: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """With its own variable and nothing else of ours."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYLLAMA_", "GGML_", "LD_", "LLAMA_"))}
    env = {**clean, "PYTHONPATH": str(peer), "LLAMA_CPP_LIB_PATH": str(build.lib_dir)}
    command = [sys.executable, "-c", PEER, str(model), PROMPT]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


def test_llama_cpp_python_generates_what_we_generate(
    peer: Path, patched_build: TestBuild, test_model: Path, child: Any, lock: Lock, tmp_path: Path
) -> None:
    done = run_peer(peer, patched_build, test_model, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    version, text = json.loads(done.stdout.splitlines()[-1])
    source = lock.pin(patched_build.pin).index
    assert source is not None and version == source.version
    assert text and text == json.loads(child(OURS, PROMPT).stdout)


def test_with_stock_libraries_it_finds_no_backend(
    peer: Path, stock_build: TestBuild, test_model: Path, tmp_path: Path
) -> None:
    done = run_peer(peer, stock_build, test_model, tmp_path)
    assert done.returncode != 0

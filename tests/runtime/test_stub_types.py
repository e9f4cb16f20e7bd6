"""The generated stubs let a type checker find swapped arguments."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RIGHT = """
import lib

def first(model: lib.llama_model_p, context: lib.llama_context_p) -> int:
    vocab: lib.llama_vocab_p = lib.llama_model_get_vocab(model)
    size = lib.llama_n_ctx(context)
    params = lib.llama_context_default_params()
    params.n_ctx = size
    lib.llama_set_n_threads(context, 2, lib.LLAMA_VOCAB_TYPE_BPE)
    return lib.llama_vocab_n_tokens(vocab) if lib.llama_vocab_is_eog(vocab, 3) else 0
"""
WRONG = {
    "swapped": 'lib.llama_state_save_file(b"path", context, tokens, 3)',
    "another pointer": "lib.llama_model_get_vocab(context)",
    "too few": "lib.llama_vocab_is_eog(vocab)",
    "unknown function": "lib.llama_no_such_function()",
    "unknown field": "lib.llama_context_default_params().n_contexts",
    "text for a number": 'lib.llama_vocab_is_eog(vocab, "3")',
}


@pytest.mark.matrix
def test_mypy_finds_what_is_wrong(patched_build: Any, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    shutil.copy(patched_build.folder / "python" / "lib.pyi", tmp_path)
    (tmp_path / "right.py").write_text(RIGHT)
    wrong = [
        "import lib",
        "def f(context: lib.llama_context_p, vocab: lib.llama_vocab_p, tokens: lib.CData) -> None:",
        *(f"    {line}" for line in WRONG.values()),
    ]
    (tmp_path / "wrong.py").write_text("\n".join(wrong) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "right.py", "wrong.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert not [line for line in lines if not line.startswith("wrong.py")], done.stdout
    found = {int(line.split(":")[1]) for line in lines}
    assert found == set(range(3, 3 + len(WRONG))), done.stdout

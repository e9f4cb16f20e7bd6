"""Greedy decoding gives what llama.cpp's own program gives, byte for byte."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

import pytest

# The program asks for four threads, which wait for each other busily where cores are few.
ALONE = {"OMP_THREAD_LIMIT": "1"}
PROMPTS = {
    "short": ("Once upon a time", 32),
    "english": ("The three laws of thermodynamics are", 48),
    "not ascii": ("Ein Märchen über den Drachen 🐉 in 東京:", 24),
    "longer than a ubatch": ("one two three four five six seven eight nine ten\n" * 52, 9),
}


def _simple(build: Any, model: Path, prompt: str, n: int) -> bytes:
    program = build.folder / "bin" / "llama-simple"
    command = [program, "-m", model, "-n", str(n), prompt]
    done = subprocess.run(command, check=True, capture_output=True, timeout=300, env={**os.environ, **ALONE})
    return done.stdout


@pytest.mark.matrix
@pytest.mark.parametrize("name", PROMPTS)
def test_same_text_as_llama_simple(name: str, child: Any, patched_build: Any, test_model: Path) -> None:
    prompt, n = PROMPTS[name]
    code = """
from pyllama.cli.main import main
sys.stdout.reconfigure(encoding="utf-8")
sys.exit(main(["run", "-m", MODEL, "-p", sys.argv[1], "-n", sys.argv[2], "--temp", "0", *sys.argv[3:]]))
"""
    expected = _simple(patched_build, test_model, prompt, n).decode("utf-8", "replace")
    assert expected.startswith(prompt) and len(expected) > len(prompt) + 8
    assert child(code, prompt, n, **ALONE).stdout == expected

    told = json.loads(child(code, prompt, n, "--json", **ALONE).stdout)
    assert prompt + told["text"] + "\n" == expected
    assert len(told["tokens"]) == n and told["finish_reason"] == "length"


@pytest.mark.matrix
def test_threads_change_nothing_and_batches_little(child: Any) -> None:
    """Products of many rows have kernels of their own, which round otherwise: on AMX by 0.2 of the spread."""
    code = """
with pyllama.Model(MODEL) as model:
    found, prompt = [], model.tokenize("a b c d " * 50)
    for options in ({}, {"threads": 1}, {"n_batch": 64, "n_ubatch": 32}):
        with model.context(n_ctx=512, **options) as context:
            tokens = pyllama.generate(context, prompt, max_tokens=16, temperature=0).tokens
        with model.context(n_ctx=512, **options) as context:
            context.decode(prompt)
            found.append([tokens, list(context.logits().copy())])
print(json.dumps(found))
"""
    (tokens, logits), other_threads, (_, other_batches) = json.loads(child(code).stdout)
    assert len(tokens) == 16 and other_threads == [tokens, logits]
    off = max(abs(a - b) for a, b in zip(logits, other_batches, strict=True))
    assert off < 0.5 * statistics.pstdev(logits)

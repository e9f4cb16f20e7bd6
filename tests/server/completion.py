"""Upstream's program that completes a prompt: `llama-completion`, at 2025-08 `llama-cli`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from real_builds import make_build

PROMPT = "Once upon a time there was"
TRIES = 6


def program_of(pin: str | None) -> Path:
    """Return the program of a pin with every feature; compiles it when it is not there."""
    name = "llama-cli" if pin == "2025-08" else "llama-completion"
    return make_build(pin, "all", name).folder / "bin" / name


def run(program: Path, model: Path, *flags: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Complete the prompt by 24 tokens, greedily.

    The program writes its text through a thread for logs and may end before that has written all of it: on a
    busy machine the end is missing now and then. So the longest of several runs counts, and what each of them
    wrote to stderr.
    """
    words = [program, "-m", model, "-p", PROMPT, "-n", "24", "-c", "512", "-t", "1", "--temp", "0"]
    best: subprocess.CompletedProcess[bytes] | None = None
    said = b""
    for _ in range(TRIES):
        done = subprocess.run(
            [*words, "-no-cnv", "--ignore-eos", "--no-warmup", *flags],
            env={**os.environ, "GGML_NO_BACKTRACE": "1", **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=300,
            check=False,
        )
        said += done.stderr
        if best is None or len(done.stdout) > len(best.stdout):
            best = done
    assert best is not None
    best.stderr = said
    return best

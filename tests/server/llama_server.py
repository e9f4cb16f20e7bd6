"""Upstream's `llama-server` in a process of its own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from tiny_models import FIRST_BYTE

Tokens = tuple[int, ...]

# 2026-05 refuses an answer that is not UTF-8: of the bytes, only those of ASCII may follow.
BANNED = range(FIRST_BYTE + 0x80, FIRST_BYTE + 0x100)
# Two tokens whose log probabilities differ by less may change places when batches are made up differently.
TIE = 0.01


@dataclass(frozen=True)
class LlamaServer:
    """A server that answers. `log` is the file that it writes what it has to say to."""

    url: str
    log: Path

    def complete(self, prompt: list[int], n: int) -> Tokens:
        """Return the `n` tokens that follow the prompt, greedily and with nothing of other requests."""
        # 2026-05 counts a draft as a whole, and leaves out what of it lies before the limit.
        tokens = tuple(self.ask(prompt, n + 8)["tokens"])
        assert n <= len(tokens) <= n + 8
        return tokens[:n]

    def certain(self, prompt: list[int], n: int) -> Tokens:
        """Return of these tokens those before the first that another one almost ties with."""
        answer = self.ask(prompt, n, n_probs=len(BANNED) + 2)
        for i, place in enumerate(answer["completion_probabilities"]):
            best = [one["logprob"] for one in place["top_logprobs"] if one["id"] not in BANNED]
            if best[0] - best[1] < TIE:
                return tuple(answer["tokens"][:i])
        return tuple(answer["tokens"])

    def ask(self, prompt: list[int], n: int, **more: int) -> dict[str, Any]:
        """Return the server's answer to a request for `n` tokens, greedily."""
        greedy = {"n_predict": n, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        bias = [[token, False] for token in BANNED]
        wanted = {"prompt": prompt, "return_tokens": True, "logit_bias": bias, **greedy, **more}
        answer = requests.post(f"{self.url}/completion", json=wanted, timeout=300)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def complete_all(self, prompts: list[list[int]], n: int, at_once: int) -> list[Tokens]:
        """Return what follows each prompt, asking for `at_once` of them at a time."""
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda prompt: self.complete(prompt, n), prompts))

    def metrics(self) -> dict[str, float]:
        """Return what `/metrics` says, by names without their prefix; every one has its type and its help."""
        answer = requests.get(f"{self.url}/metrics", timeout=60)
        answer.raise_for_status()
        lines = answer.text.splitlines()
        values = dict(re.findall(r"^llamacpp:(\w+) (\S+)$", answer.text, flags=re.MULTILINE))
        for name in values:
            assert sum(line.startswith(f"# HELP llamacpp:{name} ") for line in lines) == 1
            assert sum(line.startswith(f"# TYPE llamacpp:{name} ") for line in lines) == 1
        return {name: float(value) for name, value in values.items()}


@contextmanager
def serving(
    program: Path, log: Path, *args: str | Path, env: Mapping[str, str] | None = None
) -> Iterator[LlamaServer]:
    """Run the server until the block ends; it has to be alive then, and to end when it is asked to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA_ARG_")}
    command = [program, "--host", "127.0.0.1", "--port", str(port), "--metrics", *args]
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**words, "GGML_NO_BACKTRACE": "1", "OMP_WAIT_POLICY": "passive", **(env or {})},
        )
    server = LlamaServer(f"http://127.0.0.1:{port}", log)
    try:
        _wait(server, process)
        yield server
        assert process.poll() is None, f"the server ended with {process.returncode}\n{_end(log)}"
        process.terminate()
        assert process.wait(timeout=60) == 0, _end(log)
    finally:
        process.kill()
        process.wait()


def _wait(server: LlamaServer, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 180
    while time.monotonic() < until:
        assert process.poll() is None, f"the server ended with {process.returncode}\n{_end(server.log)}"
        try:
            if requests.get(f"{server.url}/health", timeout=10).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"the server does not answer\n{_end(server.log)}")


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]

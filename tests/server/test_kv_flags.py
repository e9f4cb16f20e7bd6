"""`--kv-cache-tokens` and `--kv-cache-demand-paged` of upstream's programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from completion import program_of, run
from llama_server import serving

import pyllama

pytestmark = [pytest.mark.matrix, pytest.mark.server]


def test_completion(pin: str | None, tiny_model: Callable[[str], Path]) -> None:
    model = tiny_model("attention")
    program = program_of(pin)
    plain = run(program, model)
    assert plain.returncode == 0 and plain.stdout
    for flags, env in (
        (["--kv-cache-demand-paged"], {}),
        (["--kv-cache-tokens", "128", "--kv-cache-demand-paged"], {}),
        ([], {"LLAMA_ARG_KV_CACHE_TOKENS": "128"}),
    ):
        done = run(program, model, *flags, **env)
        assert done.returncode == 0 and done.stdout == plain.stdout
        told = run(program, model, "-v", *flags, **env)
        assert (b"CPU_Paged KV buffer" in told.stderr) == ("--kv-cache-demand-paged" in flags)
    few = run(program, model, "--kv-cache-tokens", "16")
    assert few.returncode != 0 and b"limited to" in few.stderr
    assert b"takes a number of tokens" in run(program, model, "--kv-cache-tokens", "-1").stderr


def test_the_server_goes_on_when_the_cache_is_full(
    llama_server: Path, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    # The server of 2025-08 does not take back what an idle slot holds, to make room for another.
    slots = "1" if pyllama.build_info().pin == "2025-08" else "2"
    words = ["-m", tiny_model("attention"), "-c", "512", "-t", "1", "-np", slots, "--kv-unified"]
    flags = ["--kv-cache-tokens", "64", "--kv-cache-demand-paged"]
    with serving(llama_server, tmp_path / "log", *words, *flags) as server:
        first = server.complete(list(range(20, 40)), 8)
        wanted = {"prompt": [20 + i % 50 for i in range(100)], "n_predict": 4, "cache_prompt": False}
        refused = requests.post(f"{server.url}/completion", json=wanted, timeout=300)
        assert refused.status_code >= 400 and "error" in refused.json()
        assert server.complete(list(range(20, 40)), 8) == first
    assert "limited to" in (tmp_path / "log").read_text("utf-8", "replace")

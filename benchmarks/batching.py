"""Eight prompts at once: `generate_many` beside `llama-server -np 8` with eight clients, and one at a time.

Same tree, same prompts, same threads, greedy, as many tokens each: the tokens of all answers by the time from
the first request to the last answer. Rounds alternate, the best of each counts. The clock of a busy machine
says little: CPU seconds of the process that computes are given as well. The plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from bars import bars
from builds import build
from table import OUT, Row, report

import pyllama
from pyllama.builder.fetch.models import default_model
from pyllama.builder.paths import locate
from pyllama.builder.pins import load
from pyllama.builder.progress import Reporter

AT_ONCE = 8
BEGINNINGS = (
    "Once upon a time there was",
    "The capital of France is",
    "In the middle of the night",
    "A recipe for bread: take",
    "The history of the railway begins",
    "My favourite animal is",
    "To learn an instrument you have to",
    "Far out at sea, the captain",
)


@contextmanager
def serving(program: Path, model: Path, n_ctx: int, threads: int) -> Iterator[tuple[str, int]]:
    """Run llama-server with its own defaults beside these, and yield its address and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "-m", model, "-np", AT_ONCE, "-c", n_ctx, "-t", threads, "--port", port]
    process = subprocess.Popen(
        [*map(str, command), "--host", "127.0.0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while True:
            try:
                if requests.get(f"{url}/health", timeout=5).status_code == 200:
                    break
            except requests.ConnectionError:
                pass
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{program} does not answer: run it by hand to see why")
            time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def ask(session: requests.Session, url: str, prompt: list[int], n: int) -> int:
    """Let the server answer; return the number of tokens."""
    wanted = {
        "prompt": prompt,
        "n_predict": n,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
        "samplers": ["temperature"],
    }
    answer = session.post(f"{url}/completion", json=wanted, timeout=600)
    answer.raise_for_status()
    return int(answer.json()["tokens_predicted"])


def cpu_seconds(pid: int) -> float:
    """Return what a process has used of the CPUs; 0 where only Linux tells."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def served(url: str, pid: int, prompts: list[list[int]], n: int) -> tuple[float, float]:
    """Return tokens per second of eight clients, and the server's CPU seconds for 1,000 tokens."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        sessions = [requests.Session() for _ in prompts]
        start, cpu = time.perf_counter(), cpu_seconds(pid)
        made = sum(pool.map(lambda pair: ask(pair[0], url, pair[1], n), zip(sessions, prompts, strict=True)))
        return made / (time.perf_counter() - start), (cpu_seconds(pid) - cpu) / made * 1000


def together(context: pyllama.Context, prompts: list[list[int]], n: int, at_once: int) -> tuple[float, float]:
    """Return tokens per second of `generate_many`, and CPU seconds for 1,000 tokens."""
    params = pyllama.SamplerParams(temperature=0, ignore_eos=True, order=())
    start, cpu = time.perf_counter(), time.process_time()
    done = pyllama.generate_many(context, prompts, max_tokens=n, params=params, max_sequences=at_once)
    made = sum(len(one.tokens) for one in done)
    return made / (time.perf_counter() - start), (time.process_time() - cpu) / made * 1000


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    paths = locate()
    path = default_model(load(paths.pins), paths, Reporter())
    folder = build(pyllama.build_info().pin, "--tools", "llama-server")
    rounds: dict[str, list[tuple[float, float]]] = {}

    def note(what: str, seen: tuple[float, float]) -> None:
        rounds.setdefault(what, []).append(seen)

    n_ctx = AT_ONCE * 256
    options: dict[str, Any] = {"n_ctx": n_ctx, "n_seq_max": AT_ONCE, "threads": args.threads}
    with pyllama.Model(path) as model:
        prompts = [model.tokenize(text) for text in BEGINNINGS]
        with (
            serving(folder / "bin" / "llama-server", path, n_ctx, args.threads) as (url, pid),
            model.context(**options, kv_unified=True) as shared,
            model.context(**options) as streams,
        ):
            for _ in range(args.rounds):
                note("llama-server, 8 clients", served(url, pid, prompts, args.tokens))
                note("generate_many", together(shared, prompts, args.tokens, AT_ONCE))
                note("generate_many, streams", together(streams, prompts, args.tokens, AT_ONCE))
            note("generate_many, one at a time", together(shared, prompts, args.tokens, 1))
    rates = {what: max(rate for rate, _ in found) for what, found in rounds.items()}
    spent = {what: min(cpu for _, cpu in found) for what, found in rounds.items()}
    peer, peer_spent = rates["llama-server, 8 clients"], spent["llama-server, 8 clients"]
    rows = [
        Row(what, rate, "t/s", "llama-server", rate / peer, "1.00" if what == "generate_many" else "")
        for what, rate in rates.items()
    ]
    cpu = [
        Row(f"{what}, CPU of 1,000 tokens", used, "s", "llama-server", used / peer_spent)
        for what, used in spent.items()
        if peer_spent
    ]
    report("batching", [*rows, *cpu])
    (OUT / "batching-rounds.json").write_text(json.dumps(rounds, indent=1) + "\n", encoding="utf-8")
    print(bars("batching", {row.what: row.value for row in rows}, "tokens of all answers per second"))


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main()

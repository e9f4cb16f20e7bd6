"""Greedy generation by `stream`, beside a bare loop over the C API and, where there is one, llama-bench.

The clock of a busy machine says little: the CPU seconds of the calling thread are given as well, with one
thread, so that what Python adds to a token can be told from what llama.cpp computes.
`pyllama build --tools llama-bench` builds llama-bench; `--llama-bench PATH` uses it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from table import Row, report

import pyllama
from pyllama import ffi, lib
from pyllama.builder.fetch.models import default_model
from pyllama.builder.paths import locate
from pyllama.builder.pins import load
from pyllama.builder.progress import Reporter

TOKENS = 128
ROUNDS = 7
PROMPT = "Once upon a time"


def bare(context: pyllama.Context, prompt: list[int]) -> None:
    """The least that a caller of the C API can do."""
    lib.llama_memory_clear(lib.llama_get_memory(context.ptr), True)
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
    tokens, one, pointer = ffi.new("llama_token[]", prompt), ffi.new("llama_token[1]"), context.ptr
    batch = lib.llama_batch_get_one(tokens, len(prompt))
    for _ in range(TOKENS):
        lib.llama_decode(pointer, batch)
        one[0] = lib.llama_sampler_sample(chain, pointer, -1)
        batch = lib.llama_batch_get_one(one, 1)
    lib.llama_sampler_free(chain)


def streamed(context: pyllama.Context, prompt: list[int], **options: object) -> None:
    """The same by pyllama."""
    params = pyllama.SamplerParams(temperature=0)
    for _ in pyllama.stream(context, prompt, max_tokens=TOKENS, params=params, reuse=False, **options):  # type: ignore[arg-type]
        pass


def fastest(calls: dict[str, Callable[[], None]]) -> dict[str, tuple[float, float]]:
    """Return microseconds per token, by the clock and of the thread's CPU, the best of rounds in turn."""
    best = {name: (float("inf"), float("inf")) for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            clock, cpu = time.perf_counter(), time.thread_time()
            call()
            cpu, clock = time.thread_time() - cpu, time.perf_counter() - clock
            best[name] = (min(best[name][0], clock), min(best[name][1], cpu))
    return {name: (clock / TOKENS * 1e6, cpu / TOKENS * 1e6) for name, (clock, cpu) in best.items()}


def bench(program: Path, model: Path, threads: int) -> float:
    """Return microseconds per token, by llama-bench, the best of rounds."""
    command = [program, "-m", model, "-p", "0", "-n", str(TOKENS), "-t", str(threads), "-r", str(ROUNDS)]
    done = subprocess.run([*command, "-o", "json"], capture_output=True, text=True, check=True)
    return 1e6 / max(json.loads(done.stdout)[0]["samples_ts"])


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-bench", type=Path, help="the program, to compare with")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    paths = locate()
    path = default_model(load(paths.pins), paths, Reporter())
    rows = []
    for threads in (1, args.threads):
        with pyllama.Model(path) as model, model.context(n_ctx=512, threads=threads) as context:
            prompt = model.tokenize(PROMPT)

            def run(
                context: pyllama.Context = context, prompt: list[int] = prompt, **options: object
            ) -> Callable[[], None]:
                return lambda: streamed(context, prompt, **options)

            calls = {
                "bare loop": lambda context=context, prompt=prompt: bare(context, prompt),
                "stream": run(),
                "stream, stop strings": run(stop=["never said", "\n\n\n\n"]),
                "stream, logprobs=5": run(logprobs=5),
            }
            seen = fastest(calls)
        peer = seen["bare loop"]
        for name, (clock, cpu) in seen.items():
            target = "1.03" if name == "stream" else ""
            rows.append(Row(f"{name}, {threads} threads", clock, "µs", "bare loop", clock / peer[0], target))
            if threads == 1:
                rows.append(Row(f"{name}, CPU", cpu, "µs", "bare loop", cpu / peer[1], target))
        if args.llama_bench is not None:
            theirs = bench(args.llama_bench, path, threads)
            ratio = seen["stream"][0] / theirs
            rows.append(
                Row(f"llama-bench, {threads} threads", theirs, "µs", "stream / llama-bench", ratio, "1.03")
            )
    report("generation", rows)


if __name__ == "__main__":
    main()

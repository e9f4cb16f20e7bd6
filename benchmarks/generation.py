"""Generation, prompts and detokenising by pyllama, beside llama-bench and llama-cpp-python, in pairs.

Each round measures both sides one after the other, in processes of their own; what counts is the median of
the rounds' ratios, which a busy machine disturbs least. Speeds are tokens per second, so 1 is as fast as the
peer, and more is faster. llama-cpp-python is its unmodified Python out of the sdist that the pin is locked
to, on our libraries: what differs is Python. `--installed PYTHON` measures one with its own libraries, too.

At the end, what Python adds to a token: the CPU time of the calling thread, beside the least that a caller of
the C API can do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from builds import build
from generation_child import PROMPT, READ, STREAM, TOKENS
from table import OUT, Row, report

import pyllama
from pyllama import ffi, lib
from pyllama.builder.fetch.models import default_model
from pyllama.builder.paths import locate
from pyllama.builder.pins import load
from pyllama.builder.progress import Reporter

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from peers import llama_cpp_python

Speed = Callable[[], float]
Pairs = dict[str, list[tuple[float, float]]]


class Side:
    """A process that measures when it is asked to."""

    def __init__(self, python: str, side: str, model: Path, threads: int, env: dict[str, str]) -> None:
        command = [python, str(Path(__file__).with_name("generation_child.py")), side, str(model)]
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [*command, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, **env},
        )

    def speed(self, what: str) -> float:
        """Tokens per second."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(what, file=self._process.stdin, flush=True)
        seconds, tokens = json.loads(self._process.stdout.readline())
        return float(tokens / seconds)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def bench(folder: Path, model: Path, threads: int, *what: str) -> float:
    """Tokens per second by llama-bench, one repetition."""
    command = [folder / "bin" / "llama-bench", "-m", model, "-t", str(threads), "-r", "1", "-o", "json"]
    done = subprocess.run([*command, *what], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)[0]["avg_ts"])


def paired(rounds: int, ours: Speed, theirs: Speed) -> list[tuple[float, float]]:
    """Measure both in each round, in turns first; one round before is not counted."""
    seen = []
    for i in range(rounds + 1):
        if i % 2:
            mine, other = ours(), theirs()
        else:
            other, mine = theirs(), ours()
        seen.append((mine, other))
    return seen[1:]


def rows_of(pairs: Pairs, targets: dict[str, str]) -> list[Row]:
    """Return two rows for each comparison: medians, with the median of ratios, and the best of each side."""
    rows = []
    for name, seen in pairs.items():
        what, peer = name.split(" / ")
        mine, theirs = zip(*seen, strict=True)
        ratio = statistics.median(one / other for one, other in seen)
        middle = f"{peer} ({statistics.median(theirs):.1f} t/s)"
        rows.append(Row(what, statistics.median(mine), "t/s", middle, ratio, targets.get(name, "")))
        best = f"{peer} ({max(theirs):.1f} t/s)"
        rows.append(Row(f"{what}, best round", max(mine), "t/s", best, max(mine) / max(theirs)))
    return rows


def plot(pairs: Pairs, targets: dict[str, str], file: Path) -> None:
    """Draw the ratio of every round, its median, and the target; what is far off 1 in a panel of its own."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ratios = {name: [one / other for one, other in seen] for name, seen in pairs.items()}
    near = [name for name in pairs if statistics.median(ratios[name]) < 5]
    far = [name for name in pairs if name not in near]
    figure, both = pyplot.subplots(
        2, 1, figsize=(9, 0.75 * len(pairs) + 2), height_ratios=[len(near), max(len(far), 1)]
    )
    for axes, names in zip(both, (near, far), strict=True):
        for y, name in enumerate(names):
            middle = statistics.median(ratios[name])
            axes.plot(ratios[name], [y] * len(ratios[name]), "o", color="tab:blue", alpha=0.35)
            axes.plot([middle], [y], "D", color="tab:blue")
            label = f"{middle:.2f}" if middle < 5 else f"{middle:.0f}"
            axes.annotate(label, (middle, y), xytext=(0, 10), textcoords="offset points", ha="center")
            if name in targets:
                axes.plot(
                    [float(targets[name].lstrip("≥ "))], [y], "|", color="tab:red", markersize=26, mew=2
                )
        axes.set_yticks(range(len(names)), [name.replace(" / ", "\n") for name in names])
        axes.set_ylim(len(names) - 0.4, -0.7)
        axes.grid(True, axis="x", alpha=0.3)
    both[0].axvline(1, color="gray", lw=0.8)
    both[1].set_xscale("log")
    both[1].set_xlim(50, 5000)
    both[1].set_xlabel("speed against the peer in the same round (red: the target)")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    print(file)


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


def cpu_of_a_token(model_path: Path, rounds: int) -> list[Row]:
    """Return CPU microseconds per token of the calling thread, one thread, the best of rounds in turn."""
    with pyllama.Model(model_path) as model, model.context(n_ctx=512, threads=1) as context:
        prompt = model.tokenize(PROMPT)
        calls: dict[str, Callable[[], None]] = {
            "bare loop": lambda: bare(context, prompt),
            "stream": lambda: streamed(context, prompt),
            "stream, stop strings": lambda: streamed(context, prompt, stop=["never said", "\n\n\n\n"]),
            "stream, logprobs=5": lambda: streamed(context, prompt, logprobs=5),
        }
        best = dict.fromkeys(calls, float("inf"))
        for _ in range(rounds):
            for name, call in calls.items():
                start = time.thread_time()
                call()
                best[name] = min(best[name], (time.thread_time() - start) / TOKENS * 1e6)
    base = best["bare loop"]
    return [
        Row(f"CPU of a token: {name}", value, "µs", "bare loop", value / base) for name, value in best.items()
    ]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--installed", metavar="PYTHON", help="one that has llama-cpp-python, compiled")
    args = parser.parse_args()
    paths = locate()
    pin = load(paths.pins).pin(pyllama.build_info().pin)
    model = default_model(load(paths.pins), paths, Reporter())
    folder = build(pin.name, "--tools", "llama-bench")
    with tempfile.TemporaryDirectory(prefix="pyllama-bench-") as temporary:
        peer = llama_cpp_python(pin, Path(temporary))
        version = pin.index.version if pin.index is not None else ""
        package = str(Path(pyllama.__file__).parents[1])
        env = {"PYLLAMA_BUILD": str(folder), "PYTHONPATH": package}
        ours = Side(sys.executable, "ours", model, args.threads, env)
        env = {"LLAMA_CPP_LIB_PATH": str(folder / "lib"), "PYTHONPATH": str(peer)}
        sides = {f"llama-cpp-python {version}": Side(sys.executable, "theirs", model, args.threads, env)}
        if args.installed:
            own = Side(args.installed, "theirs", model, args.threads, {})
            sides[f"llama-cpp-python {version}, its own libraries"] = own

        def bench_of(*what: str) -> Speed:
            return lambda: bench(folder, model, args.threads, *what)

        wrote, read = f"greedy, {TOKENS} tokens", f"prompt of {READ} tokens"
        name_write, name_read = f"{wrote} / llama-bench", f"{read} / llama-bench"
        targets = {name_write: "≥ 0.97", name_read: "≥ 0.97"}
        write_bench = bench_of("-p", "0", "-n", str(TOKENS))
        read_bench = bench_of("-p", str(READ), "-n", "0")
        pairs: Pairs = {
            name_write: paired(args.rounds, lambda: ours.speed("write"), write_bench),
            name_read: paired(args.rounds, lambda: ours.speed("read"), read_bench),
        }
        for name, side in sides.items():
            for what, call in (("a whole call", "call"), ("the same, streamed", "stream")):
                one = f"{what} / {name}"
                pairs[one] = paired(
                    args.rounds, lambda c=call: ours.speed(c), lambda s=side, c=call: s.speed(c)
                )
                targets[one] = "≥ 1.2"
        name, side = next(iter(sides.items()))
        one = f"detokenising a stream of {STREAM} / {name}"
        pairs[one] = paired(3, lambda: ours.speed("detokenise"), lambda: side.speed("detokenise"))
        targets[one] = "≥ 100"
        for each in (ours, *sides.values()):
            each.close()
    rows = rows_of(pairs, targets) + cpu_of_a_token(model, args.rounds)
    report("generation", rows)
    plot(pairs, targets, OUT / "generation.png")


if __name__ == "__main__":
    main()

"""A follow-up turn on a hybrid model whose history has 2,000 tokens: time to the first token.

The peer is llama-cpp-python, unmodified, out of the sdist that our build's pin is locked to and pointed at
our libraries: both compute with the same code, what differs is what is read again. Each answer has 24
tokens. A follow-up adds 30 tokens to the history and the answer: to all of the answer, or to what is left of
it when a chat leaves out the model's thoughts or cuts it at a stop string. Then the last message is edited.
With one thread, the default, its CPU seconds are measured: other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bars import bars
from medium import hybrid
from table import Row, report

import pyllama
from pyllama.builder.paths import locate
from pyllama.builder.pins import load

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from peers import llama_cpp_python

N_CTX, TURN = 4096, 30
PARAMS = pyllama.SamplerParams(temperature=0, ignore_eos=True)
ANSWER = 24
Ask = Callable[[Sequence[int]], tuple[float, list[int]]]


def words(start: int, n: int) -> list[int]:
    """`n` tokens that are no special ones."""
    return [3 + (start + i * 7) % 300 for i in range(n)]


def conversation(ask: Ask, history: int) -> dict[str, float]:
    """Have one, and return the seconds to the first token of each answer."""
    first = words(1, history)
    found = {}
    found["first prompt"], answer = ask(first)
    second = [*first, *answer, *words(2, TURN)]
    found["follow-up"], answer = ask(second)
    third = [*second, *answer[: ANSWER // 2], *words(3, TURN)]
    found["follow-up, the answer shortened"], _ = ask(third)
    found["edited last message"], _ = ask([*third[:-TURN], *words(5, TURN)])
    return found


def ours(context: pyllama.Context, clock: Callable[[], float]) -> Ask:
    """Ask by `stream`."""

    def ask(prompt: Sequence[int]) -> tuple[float, list[int]]:
        start = clock()
        pieces = pyllama.stream(context, prompt, max_tokens=ANSWER, params=PARAMS)
        first = next(pieces).token
        seconds = clock() - start
        return seconds, [token for token in (first, *(piece.token for piece in pieces)) if token is not None]

    return ask


def theirs(path: Path, threads: int, clock: Callable[[], float]) -> Ask:
    """Ask by `Llama.generate`, which its high-level calls use."""
    import llama_cpp

    llm = llama_cpp.Llama(
        str(path), n_ctx=N_CTX, n_threads=threads, n_threads_batch=threads, verbose=False, n_batch=512
    )

    def ask(prompt: Sequence[int]) -> tuple[float, list[int]]:
        start = clock()
        tokens = llm.generate(list(prompt), temp=0.0)
        answer = [next(tokens)]
        seconds = clock() - start
        return seconds, answer + [next(tokens) for _ in range(ANSWER - 1)]

    return ask


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--history", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    pin = load(locate().pins).pin(pyllama.build_info().pin)
    seen: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="pyllama-bench-") as name:
        folder = Path(name)
        path = hybrid(folder)
        os.environ["LLAMA_CPP_LIB_PATH"] = str(pyllama.build_info().lib_dir)
        sys.path.insert(0, str(llama_cpp_python(pin, folder)))
        with (
            pyllama.Model(path) as model,
            model.context(n_ctx=N_CTX, n_batch=512, threads=args.threads) as context,
        ):
            clock = time.thread_time if args.threads == 1 else time.perf_counter
            ways = {"pyllama": ours(context, clock), "llama-cpp-python": theirs(path, args.threads, clock)}
            for _ in range(args.rounds):
                context.clear()
                for way, ask in ways.items():
                    for what, seconds in conversation(ask, args.history).items():
                        seen.setdefault(what, {}).setdefault(way, []).append(seconds)
    rows = []
    for what, times in seen.items():
        mine, peer = (statistics.median(times[way]) * 1e3 for way in ("pyllama", "llama-cpp-python"))
        goal = "≥ 10" if "follow-up" in what else ""
        rows.append(Row(f"{what}, pyllama", mine, "ms", "sooner than llama-cpp-python", peer / mine, goal))
        rows.append(Row(f"{what}, llama-cpp-python", peer, "ms"))
    report("follow_up", rows)
    print(bars("follow_up", {row.what: row.value for row in rows}, "ms to the first token, median"))


if __name__ == "__main__":
    main()

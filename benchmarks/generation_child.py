"""One side of benchmarks/generation.py, in a process of its own.

generation_child.py ours|theirs MODEL THREADS

Answers each line of stdin with one of JSON: the seconds that a measurement took, and for how many tokens.
llama-cpp-python is called as its users do, with no option but the number of threads and of tokens.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT = "Once upon a time"
TOKENS = 128
READ = 512
STREAM = 2048
Measured = tuple[float, int]


def long_text() -> str:
    """Prose of this repository, more than STREAM tokens."""
    docs = Path(__file__).resolve().parents[1] / "docs"
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(docs.glob("*.md")))


def ours(path: str, threads: int) -> dict[str, Callable[[], Measured]]:
    """Return what pyllama can do."""
    import pyllama
    from pyllama.vocab import Detokenizer

    model = pyllama.Model(path)
    context = model.context(n_ctx=1024, threads=threads)
    text = model.tokenize(long_text())[:STREAM]

    def call() -> Measured:
        start = time.perf_counter()
        done = pyllama.generate(context, PROMPT, max_tokens=TOKENS, temperature=0)
        return time.perf_counter() - start, len(done.tokens)

    def stream() -> Measured:
        start = time.perf_counter()
        pieces = [*pyllama.stream(context, PROMPT, max_tokens=TOKENS, temperature=0)]
        return time.perf_counter() - start, len(pieces) - 1

    # llama-bench's cache has room for what it measures, and it does that once before it looks at the clock.
    for_writing, for_reading = (model.context(n_ctx=size, threads=threads) for size in (2 * TOKENS, READ))

    def write() -> Measured:
        """Between the first token and the last one, as llama-bench has no prompt."""
        done = pyllama.generate(for_writing, PROMPT, max_tokens=TOKENS + 1, temperature=0)
        return done.seconds - done.prompt_seconds, len(done.tokens) - 1

    chance = random.Random(READ)
    words = [chance.randrange(len(model.vocab)) for _ in range(READ)]  # as llama-bench has them

    def read() -> Measured:
        for _ in range(2):
            done = pyllama.generate(for_reading, words, max_tokens=1, temperature=0, reuse=False)
        return done.prompt_seconds, READ

    def detokenise() -> Measured:
        """With a model that has not seen any token yet."""
        with pyllama.Model(path, vocab_only=True) as fresh:
            start = time.perf_counter()
            pieces = Detokenizer(fresh.vocab)
            whole = "".join([pieces.feed(token) for token in text]) + pieces.finish()
            taken = time.perf_counter() - start
        assert whole == model.detokenize(text)
        return taken, len(text)

    return {"call": call, "stream": stream, "write": write, "read": read, "detokenise": detokenise}


def theirs(path: str, threads: int) -> dict[str, Callable[[], Measured]]:
    """Return what llama-cpp-python can do."""
    import llama_cpp

    model = llama_cpp.Llama(path, n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)
    prompt = model.tokenize(PROMPT.encode())
    text = model.tokenize(long_text().encode())[:STREAM]

    def call() -> Measured:
        start = time.perf_counter()
        done: Any = model.create_completion(PROMPT, max_tokens=TOKENS, temperature=0)
        return time.perf_counter() - start, done["usage"]["completion_tokens"]

    def detokenise() -> Measured:
        """What `_create_completion` does with each token beside decoding."""
        start = time.perf_counter()
        made: list[int] = []
        for token in text:
            made.append(token)
            model.detokenize(made, prev_tokens=prompt)
        return time.perf_counter() - start, len(text)

    def stream() -> Measured:
        start = time.perf_counter()
        last = [*model.create_completion(PROMPT, max_tokens=TOKENS, temperature=0, stream=True)][-1]
        assert last["choices"][0]["finish_reason"] == "length"
        return time.perf_counter() - start, TOKENS

    return {"call": call, "stream": stream, "detokenise": detokenise}


def main() -> None:
    """Serve."""
    side, path, threads = sys.argv[1:]
    can = (ours if side == "ours" else theirs)(path, int(threads))
    for line in sys.stdin:
        print(json.dumps(can[line.strip()]()), flush=True)


if __name__ == "__main__":
    main()

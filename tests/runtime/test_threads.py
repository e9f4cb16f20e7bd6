"""Threads, forks, exits: calls wait for each other or are refused, and nothing hangs or crashes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.matrix

HAMMER = """
import random, threading, time, traceback
from pyllama.errors import Error
ROUNDS, THREADS = int(sys.argv[2]), 8
unexpected, done = [], [0]

def worker(model, contexts, batch, sampler, seed):
    chance = random.Random(seed)
    def context():
        return chance.choice(contexts)
    def output():
        found = context().logits()
        for _ in range(5):
            found[chance.randrange(len(found))]
        return found.copy()
    def array():
        one = context().logits().numpy()
        return float(one.sum())
    def checkpoint():
        one = context()
        with one.sequence(0).checkpoint() as saved:
            one.sequence(0).restore(saved)
    def fill():
        one = context()
        with one.lock, batch.lock:
            batch.clear()
            batch.extend([5, 6, 7], seq=1)
            one.decode(batch)
    def cancelled():
        with pyllama.Cancel() as cancel:
            threading.Timer(0.001, cancel.set).start()
            context().decode([5] * 60)
    calls = [
        lambda: model.tokenize("The quick brown fox " * 9),
        lambda: model.vocab.piece(chance.randrange(300)), lambda: model.vocab.is_eog(2),
        lambda: model.metadata, lambda: model.description, lambda: model.n_params, lambda: repr(model),
        lambda: context().decode([5, 6, 7]), lambda: context().decode([5] * 50), lambda: context().clear(),
        lambda: context().n_ctx, lambda: context().n_ctx_seq, lambda: context().kv.stats(),
        lambda: repr(context()), lambda: context()._repr_html_(), lambda: context().sequence(1).clear(),
        lambda: context().sequence(0).copy_to(context().sequence(1)), lambda: sampler.sample(context()),
        lambda: sampler.reset(), lambda: sampler.names, output, array, checkpoint, fill, cancelled,
        lambda: pyllama.generate(context(), "abc", max_tokens=5),
        lambda: pyllama.generate(context(), "abc", max_tokens=3, logprobs=2, stop="q"),
        lambda: pyllama.generate_many(context(), ["abc", "abd"], max_tokens=3),
        lambda: model.context(n_ctx=64, threads=1).close(),
        lambda: pyllama.Sampler(pyllama.SamplerParams(grammar='root ::= "a"+'), model).close(),
    ]
    while not done[0]:
        try:
            chance.choice(calls)()
        except Error:
            pass
        except BaseException:
            unexpected.append(traceback.format_exc())
            return

for i in range(ROUNDS):
    done[0] = 0
    model = pyllama.Model(sys.argv[1])
    contexts = [model.context(n_ctx=512, n_seq_max=2, kv_unified=True, threads=1) for _ in range(3)]
    batch, sampler = pyllama.Batch(16), pyllama.Sampler(pyllama.SamplerParams(dry_multiplier=1), model)
    threads = [
        threading.Thread(target=worker, args=(model, contexts, batch, sampler, (i + 1) * 100 + t))
        for t in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    contexts[0].close()
    time.sleep(0.1)
    model.close()
    time.sleep(0.05)
    done[0] = 1
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "two threads wait for each other"
print("\\n".join(unexpected) or "fine")
"""


@pytest.mark.parametrize("kind", ["attention", "hybrid"])
def test_everything_at_once(child: Any, tiny_model: Callable[[str], Path], kind: str) -> None:
    """Eight threads do at random whatever can be done to three contexts, which are closed under them."""
    assert child(HAMMER, tiny_model(kind), "2").stdout == "fine\n"


FORK = """
import os, signal, time
from pyllama.errors import ForkError
def in_child(call):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            call()
        finally:
            sys.exit(0)
    for _ in range(600):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            print("status", status)
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    print("it hangs")
"""


def test_a_fork_of_what_has_computed(child: Any, tiny_model: Callable[[str], Path]) -> None:
    """Every handle says so, also one that another thread was using; closing and dropping them is fine."""
    code = (
        FORK
        + """
import gc, threading
model = pyllama.Model(sys.argv[1])
context, busy = (model.context(n_ctx=4096, threads=2) for _ in range(2))
pyllama.generate(context, "abc", max_tokens=3)
saved, logits, sampler = context.sequence().checkpoint(), context.logits(), pyllama.Sampler()
batch = pyllama.Batch(4)
ended = threading.Event()
def work():
    while not ended.is_set():
        busy.clear()
        busy.decode([5] * 400)
thread = threading.Thread(target=work)
thread.start()
while busy.decodes < 3:
    time.sleep(0.001)
def refused():
    for call in (
        lambda: model.tokenize("abc"), lambda: context.decode([5]), lambda: context.sequence().restore(saved),
        lambda: busy.decode([5]), lambda: busy.clear(), lambda: pyllama.generate(model, "abc"),
        lambda: pyllama.generate(context, "abc"), lambda: logits[0], lambda: batch.add(1),
        lambda: sampler.reset(),
        lambda: model.context(n_ctx=64), lambda: pyllama.Model(sys.argv[1]).context(n_ctx=64),
    ):
        try:
            call()
        except ForkError as error:
            assert "spawn" in str(error)
        else:
            print("not refused")
    for handle in (saved, context, busy, model):
        handle.close()
        assert handle.closed
    gc.collect()
    print("all refused", flush=True)
in_child(refused)
in_child(lambda: None)
ended.set()
thread.join()
print(len(pyllama.generate(context, "abc", max_tokens=3).tokens))  # the parent goes on
"""
    )
    done = child(code, tiny_model("attention"))
    assert done.stdout.splitlines() == ["all refused", "status 0", "status 0", "3"]


def test_a_fork_of_what_has_only_loaded(child: Any, tiny_model: Callable[[str], Path]) -> None:
    """As a server does that loads its modules, and forks its workers."""
    code = (
        FORK
        + """
model = pyllama.Model(sys.argv[1])
def work():
    with pyllama.Model(sys.argv[1]) as own:
        print(len(pyllama.generate(own, "abc", max_tokens=3).tokens), flush=True)
in_child(work)
print(len(pyllama.generate(model, "abc", max_tokens=3).tokens))
"""
    )
    assert child(code, tiny_model("attention")).stdout.splitlines() == ["3", "status 0", "3"]


def test_spawned_processes(child: Any, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "spawned.py").write_text(
        "import pyllama\n"
        "def work(path):\n"
        "    return len(pyllama.generate(pyllama.Model(path), 'abc', max_tokens=3, temperature=0).tokens)\n"
    )
    code = """
import multiprocessing
sys.path.insert(0, sys.argv[2])
import spawned
if __name__ == "__main__":
    print(spawned.work(sys.argv[1]))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(pool.map(spawned.work, [sys.argv[1]] * 3))
"""
    done = child(code, tiny_model("attention"), tmp_path)
    assert done.stdout.splitlines() == ["3", "[3, 3, 3]"]


EXITS = {
    "decoding": "context.clear()\n        context.decode([5] * 1500)",
    "generating": "pyllama.generate(context, [5] * 60, max_tokens=60)",
    "many": "pyllama.generate_many(context, [[5] * 60, [6] * 50], max_tokens=60)",
    "loading": "pyllama.Model(MODEL).context(n_ctx=64).decode([1, 2, 3])",
    "tokenizing": "model.tokenize('The quick brown fox ' * 400)",
}


@pytest.mark.parametrize(
    ("name", "way"), [*((name, "end") for name in EXITS), ("decoding", "exit"), ("many", "error")]
)
def test_the_interpreter_exits_under_a_daemon_thread(child: Any, name: str, way: str) -> None:
    code = f"""
import threading, time
model = pyllama.Model(MODEL)
context = model.context(n_ctx=2048, n_seq_max=2, kv_unified=True, threads=2)
rounds = [0]
def work():
    while True:
        rounds[0] += 1
        {EXITS[name]}
threading.Thread(target=work, daemon=True).start()
while not rounds[0]:
    time.sleep(0.001)
time.sleep(0.2)
print("last line", flush=True)
{ {"end": "", "exit": "sys.exit(3)", "error": "raise RuntimeError('wanted')"}[way] }
"""
    done = child(code, check=False)
    assert done.returncode == {"end": 0, "exit": 3, "error": 1}[way], done.stderr
    assert done.stdout == "last line\n" and ("wanted" in done.stderr) == (way == "error")
    assert done.stderr == "" or way == "error"


def test_handlers_at_exit_can_still_use_a_context(child: Any, tiny_model: Callable[[str], Path]) -> None:
    code = """
import atexit
model = pyllama.Model(sys.argv[1])
context = model.context(n_ctx=256, threads=1)
atexit.register(lambda: print(len(pyllama.generate(context, "abc", max_tokens=3).tokens)))
import pyllama.context
atexit.register(lambda: print("first"))
"""
    assert child(code, tiny_model("attention")).stdout.splitlines() == ["first", "3"]
    before = "import atexit\natexit.register(lambda: work())\n"
    code = (
        before
        + """
model = pyllama.Model(sys.argv[1])
context = model.context(n_ctx=256, threads=1)
def work():
    print(len(pyllama.generate(context, "abc", max_tokens=3).tokens))
"""
    )
    assert child(code, tiny_model("attention")).stdout == "3\n"

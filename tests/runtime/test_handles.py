"""Who frees what, when: exactly once, children first, whatever the order and the thread."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import pyllama
from pyllama.errors import ClosedError, ContextError
from pyllama.native.handle import Handle


class _Log:
    """Handles that note when they are freed."""

    def __init__(self) -> None:
        self.freed: list[str] = []

    def make(self, name: str, parent: Handle | None = None) -> Handle:
        return Handle(name, self.freed.append, parent)


@pytest.mark.parametrize("order", ["parent first", "child first", "parent only", "child only", "both twice"])
def test_children_before_parents_and_once(order: str) -> None:
    log = _Log()
    parent = log.make("parent")
    child = log.make("child", parent)
    if order == "both twice":
        closing = [parent, parent, child, child]
    else:
        closing = [parent, child] if order.startswith("parent") else [child, parent]
        closing = closing[:1] if order.endswith("only") else closing
    for handle in closing:
        handle.close()
        assert handle.closed
    del closing, handle, parent, child
    gc.collect()
    assert log.freed == ["child", "parent"]


def test_dropping_instead_of_closing() -> None:
    log = _Log()
    parent = log.make("parent")
    child = log.make("child", parent)
    del parent
    gc.collect()
    assert log.freed == [], "the child still needs it"
    del child
    assert log.freed == ["child", "parent"]


def test_in_a_cycle_children_still_go_first() -> None:
    """The collector finalises in any order and has cleared the weak references by then."""
    for flip in (False, True):
        log = _Log()
        parent = log.make("parent")
        child = log.make("child", parent)
        cycle: list[Any] = [parent, child] if flip else [child, parent]
        cycle.append(cycle)
        parent.cycle = cycle  # type: ignore[attr-defined]
        del parent, child, cycle
        gc.collect()
        assert log.freed == ["child", "parent"]


def test_closed_children_are_forgotten() -> None:
    log = _Log()
    parent = log.make("parent")
    for i in range(5):
        log.make(str(i), parent).close()
        log.make(f"dropped {i}", parent)
    gc.collect()
    assert len(log.freed) == 10
    assert not parent._owned.children


def test_an_exception_leaves_a_with_block_closed() -> None:
    log = _Log()
    with pytest.raises(ZeroDivisionError), log.make("one") as handle:
        raise ZeroDivisionError
    assert handle.closed and log.freed == ["one"]
    with pytest.raises(ClosedError, match="closed"):
        _ = handle.ptr


def test_model_is_freed_when_it_is_dropped(test_model: Path) -> None:
    """Without the collector: a model may hold gigabytes."""
    gc.collect()
    gc.disable()
    try:
        model = pyllama.Model(test_model, vocab_only=True)
        assert len(model.vocab) and model.vocab.piece(100) and repr(model)
        seen, owned = weakref.ref(model), model._owned
        vocab = model.vocab
        del model
        assert seen() is not None and len(vocab) > 0, "the vocabulary keeps it"
        del vocab
        assert seen() is None and owned.ptr is None
    finally:
        gc.enable()


@pytest.mark.parametrize("holding", [False, True], ids=["alone", "with the context's lock"])
def test_a_grammar_is_made_while_the_model_is_being_closed(test_model: Path, holding: bool) -> None:
    """The close has the model's lock and waits for a context: who makes a sampler must not wait for it."""
    model = pyllama.Model(test_model)
    context = model.context(n_ctx=32, threads=1)
    closing = threading.Thread(target=model.close, daemon=True)
    ready, made, done = threading.Event(), threading.Event(), threading.Event()

    def make() -> None:
        with context.lock if holding else nullcontext():
            ready.set()
            wait_for(lambda: taken(model))
            params = pyllama.SamplerParams(grammar='root ::= "ab"+', grammar_prefix="ab")
            pyllama.Sampler(params, model).close()
            made.set()

    def hold() -> None:
        with context.lock:
            ready.set()
            done.wait(60)

    threads = [threading.Thread(target=make, daemon=True)]
    if not holding:
        threads.append(threading.Thread(target=hold, daemon=True))
        threads[1].start()
        ready.wait(60)
    threads[0].start()
    ready.wait(60)
    closing.start()
    assert made.wait(30), "they wait for each other"
    done.set()
    for thread in (closing, *threads):
        thread.join(30)
        assert not thread.is_alive()
    assert model.closed and context.closed


def taken(handle: Handle) -> bool:
    """Whether another thread has the lock."""
    if handle.lock.acquire(blocking=False):
        handle.lock.release()
        return False
    return True


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


def test_use_after_close(test_model: Path) -> None:
    model = pyllama.Model(test_model)
    vocab, context, sampler = model.vocab, model.context(n_ctx=32, threads=1), pyllama.Sampler()
    context.decode([1])
    model.close()
    assert model.closed and context.closed and not sampler.closed
    assert "closed" in repr(model) and "closed" in repr(context)
    uses = [
        lambda: model.n_params,
        lambda: model.metadata,
        lambda: model.tokenize("x"),
        lambda: model.context(n_ctx=32),
        lambda: len(vocab),
        lambda: vocab.is_eog(1),
        lambda: vocab.piece(77),
        lambda: context.n_ctx,
        lambda: context.decode([1]),
        lambda: context.clear(),
        lambda: sampler.sample(context),
        lambda: pyllama.generate(model, "x"),
        lambda: pyllama.generate(context, [1, 2]),
        lambda: model.ptr,
    ]
    for i, use in enumerate(uses):
        with pytest.raises(ClosedError, match="closed"):
            use()
            pytest.fail(f"use {i}")
    sampler.close()
    with pytest.raises(ClosedError):
        sampler.reset()
    for handle in (context, model, sampler, model):
        handle.close()


EXITS = {
    "open model and context": "model = pyllama.Model(MODEL); context = model.context(n_ctx=32)",
    "context in a cycle": "m = pyllama.Model(MODEL); c = m.context(n_ctx=32); m.x = c; c.y = m; del m, c",
    "in the middle of a stream": (
        "s = pyllama.stream(pyllama.Model(MODEL), 'Hello', max_tokens=9); next(s); sys.exit(0)"
    ),
    "in another thread": (
        "import threading\nt = threading.Thread(target=lambda: [0 for _ in "
        "pyllama.stream(pyllama.Model(MODEL), 'Hello', max_tokens=9)], daemon=False)\nt.start()"
    ),
    "with every line logged": (
        "import logging\nlogging.getLogger('pyllama').setLevel(logging.DEBUG)\n"
        "sys.keep = pyllama.Model(MODEL).context(n_ctx=32)"
    ),
    "only imported": "pyllama.lib.llama_max_devices()",
    "an array of logits": (
        "m = pyllama.Model(MODEL); c = m.context(n_ctx=32); c.decode([1]); a = c.logits().numpy()"
    ),
    "an array of logits of a closed context": (
        "m = pyllama.Model(MODEL); c = m.context(n_ctx=32); c.decode([1]); sys.keep = c.logits().numpy()\n"
        "m.close()"
    ),
    "batch, sampler and embedder": (
        "m = pyllama.Model(MODEL); b = pyllama.Batch(8); e = pyllama.Embedder(m); e.embed('x')\n"
        "s = pyllama.Sampler(pyllama.SamplerParams(grammar='root ::= [a-z]+', dry_multiplier=1), m)"
    ),
    "bad options": "m = pyllama.Model(MODEL)\ntry:\n    m.context(n_ctx=-1)\nexcept pyllama.Error:\n    pass",
}


@pytest.mark.matrix
@pytest.mark.parametrize("name", EXITS)
def test_silent_exit(name: str, child: Any) -> None:
    done = child(EXITS[name])
    assert done.stderr == "" and done.stdout == ""


def test_opening_and_closing_does_not_leak(child: Any) -> None:
    code = """
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
def cycle(times):
    for _ in range(times):
        with pyllama.Model(MODEL) as model, model.context(n_ctx=256, threads=1) as context:
            context.decode([1, 2, 3])
cycle(6)
before = resident()
cycle(44)
print(resident() - before)
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("only Linux tells its memory so")
    grown = int(child(code).stdout)
    # One vocabulary takes about 15 MB, one context 7 MB: a leak of either would be ten times this.
    assert grown < 48 * 2**20


def test_half_made_objects(test_model: Path) -> None:
    for _ in range(3):
        with pytest.raises(pyllama.Error):
            pyllama.Model("/nonexistent.gguf")
    with pyllama.Model(test_model) as model:
        for options in ({"n_ctx": -1}, {"n_batch": 0}, {"n_seq_max": 10_000}, {"threads": 2**40}):
            with pytest.raises(ContextError):
                model.context(**options)
        assert not model._owned.children


@pytest.mark.matrix
def test_vocabulary_only(child: Any) -> None:
    """llama.cpp ends the process when it decodes with such a model."""
    code = """
with pyllama.Model(MODEL, vocab_only=True) as model:
    assert model.tokenize("x")
    try:
        model.context(n_ctx=32)
    except pyllama.errors.ContextError as error:
        print(error)
"""
    assert "vocab_only" in child(code).stdout


def test_unknown_fields_name_the_known_ones(model: pyllama.Model, test_model: Path) -> None:
    with pytest.raises(
        TypeError, match=r"llama_context_params has no field 'n_contexts': .*n_ubatch"
    ) as raised:
        model.context(n_ctx=32, n_contexts=1)
    assert "n_seq_max" in str(raised.value)
    with pytest.raises(TypeError, match=r"llama_model_params has no field 'mmmap': .*n_gpu_layers"):
        pyllama.Model(test_model, mmmap=True)
    with pytest.raises(ValueError, match="n_threads_batch"):
        model.context(n_ctx=32, n_threads_batch=2**40)
    with model.context(n_ctx=32, n_threads_batch=1) as context:
        assert pyllama.lib.llama_n_threads_batch(context.ptr) == 1


def test_progress(test_model: Path) -> None:
    seen: list[float] = []
    pyllama.Model(test_model, progress=seen.append).close()
    assert seen == sorted(seen) and seen[0] >= 0 and seen[-1] == 1

    class Stop(BaseException):
        pass

    def fail(_: float) -> None:
        raise Stop

    with pytest.raises(Stop):
        pyllama.Model(test_model, progress=fail)
    with pytest.raises(pyllama.errors.ModelError, match="stopped"):
        pyllama.Model(test_model, progress=lambda _: False)
    pyllama.Model(test_model, progress=lambda _: True).close()


THREADS = """
import threading
def in_threads(*work):
    errors = []
    def run(call):
        try:
            call()
        except BaseException as error:
            errors.append(repr(error))
    threads = [threading.Thread(target=run, args=(call,)) for call in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
"""


@pytest.mark.matrix
def test_one_context_in_several_threads(child: Any) -> None:
    """Decodes wait for each other: every token arrives, once."""
    code = (
        THREADS
        + """
with pyllama.Model(MODEL) as model, model.context(n_ctx=512, threads=1) as context:
    def feed():
        for _ in range(20):
            context.decode([1, 2, 3])
    in_threads(feed, feed, feed)
    lib = pyllama.lib
    print(lib.llama_memory_seq_pos_max(lib.llama_get_memory(context.ptr), 0))
"""
    )
    assert child(code).stdout == f"{3 * 20 * 3 - 1}\n"


@pytest.mark.matrix
def test_two_contexts_in_two_threads(child: Any) -> None:
    code = (
        THREADS
        + """
prompts = ["Once upon a time", "The capital of France is", "I think that"]
with pyllama.Model(MODEL) as model:
    contexts = [model.context(n_ctx=64, threads=1) for _ in prompts]
    def make(i):
        return pyllama.generate(contexts[i], prompts[i], max_tokens=12, temperature=0).tokens
    alone = [make(i) for i in range(3)]
    together = [None] * 3
    def work(i):
        together[i] = make(i)
    in_threads(*(lambda i=i: work(i) for i in range(3)))
    print(json.dumps([alone, together]))
"""
    )
    alone, together = json.loads(child(code).stdout)
    assert alone == together and len(alone[0]) == 12


def test_closing_waits_for_a_decode(child: Any) -> None:
    code = (
        THREADS
        + """
from pyllama.errors import ClosedError
for _ in range(3):
    model = pyllama.Model(MODEL)
    context = model.context(n_ctx=1024, threads=1)
    started = threading.Event()
    def feed():
        try:
            while True:
                started.set()
                context.decode([1] * 40)
        except (ClosedError, pyllama.errors.DecodeError):
            pass
    def close():
        started.wait()
        model.close()
    in_threads(feed, close)
    assert context.closed
print("fine")
"""
    )
    assert child(code).stdout == "fine\n"


def test_closing_a_parent_while_its_child_is_closed() -> None:
    """Neither waits for the other for ever: who closes a child does not want the parent's lock."""
    for _ in range(200):
        log = _Log()
        parent = log.make("parent")
        child = log.make("child", parent)
        other = threading.Thread(target=child.close, daemon=True)
        other.start()
        parent.close()
        other.join(60)
        assert not other.is_alive() and log.freed == ["child", "parent"]
    held = threading.Event()
    log = _Log()
    parent = log.make("parent")
    child = log.make("child", parent)
    with parent.lock:
        thread = threading.Thread(target=lambda: (child.close(), held.set()), daemon=True)
        thread.start()
        assert held.wait(60), "the parent's lock is not wanted"
    parent.close()
    assert log.freed == ["child", "parent"]


def test_handle_lock_is_held_while_freeing_waits() -> None:
    log = _Log()
    handle = log.make("one")
    with handle.lock:
        thread = threading.Thread(target=handle.close)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and log.freed == []
    thread.join()
    assert log.freed == ["one"]

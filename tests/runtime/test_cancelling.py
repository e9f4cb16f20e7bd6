"""A decode that is stopped leaves its sequences as they were, and what follows is exact to the bit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from native.loopback import Loopback

import pyllama
from pyllama import Batch, Cancel
from pyllama.cancelling import LONG, scopes
from pyllama.errors import Cancelled, DecodeError

pytestmark = pytest.mark.matrix

KINDS = ["attention", "swa", "mamba2", "rwkv7", "hybrid", "hybrid-swa", "delta", "rollback"]
BEFORE = [5 + i % 90 for i in range(20)]
PROMPT = [7 + i * i % 200 for i in range(150)]


class AtOnce(Cancel):
    """Stops each decode after the first node of its graph, and none before it begins."""

    def attach(self, flag: Any) -> None:
        super().attach(flag)
        flag[0] = 1


def _context(model: pyllama.Model, **options: Any) -> pyllama.Context:
    return model.context(**{"n_ctx": 512, "threads": 1, "n_batch": 64, "n_ubatch": 32, **options})


def _exact(model: pyllama.Model, before: list[int], **options: Any) -> bytes:
    """Return the logits after the prompt in a context of which nobody stopped anything."""
    with _context(model, **options) as context:
        if before:
            context.decode(before)
        context.decode(PROMPT)
        return context.logits().copy().tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [[], BEFORE], ids=["empty", "not empty"])
def test_what_it_held_before(tiny_model: Callable[[str], Path], kind: str, before: list[int]) -> None:
    for options in ({}, {"swa_full": False}) if kind == "swa" else ({},):
        with pyllama.Model(tiny_model(kind)) as model, _context(model, **options) as context:
            sequence = context.sequence()
            if before:
                sequence.feed(before)
            for _ in range(3):
                with AtOnce(), pytest.raises(Cancelled, match="hold what they held before") as raised:
                    context.decode(PROMPT)
                assert raised.value.cleared == () and raised.value.code == 2
                assert sequence.length == len(before)
            context.decode(PROMPT)
            assert context.logits().copy().tobytes() == _exact(model, before, **options)


def _stop_after(cancel: Cancel, context: pyllama.Context, decodes: int) -> None:
    while context.decodes < decodes:
        time.sleep(0.0005)
    cancel.set()


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_middle(tiny_model: Callable[[str], Path], kind: str) -> None:
    """From another thread, wherever it comes: several batches have been computed by then, or none."""
    long = PROMPT * 20
    stopped = 0
    with pyllama.Model(tiny_model(kind)) as model, _context(model, n_ctx=4096) as context:
        for i in range(12):
            context.clear()
            context.decode(BEFORE)
            with Cancel() as cancel:
                many = context.decodes + 1 + i % 6 * 4
                thread = threading.Thread(target=_stop_after, args=(cancel, context, many), daemon=True)
                thread.start()
                try:
                    context.decode(long)
                except Cancelled as error:
                    stopped += 1
                    assert error.cleared == ()
                    assert context.sequence().length == len(BEFORE)
                else:
                    assert context.sequence().length == len(BEFORE) + len(long)
            thread.join()
            if context.sequence().length == len(BEFORE):
                context.decode(PROMPT)
                assert context.logits().copy().tobytes() == _exact(model, BEFORE, n_ctx=4096)
    assert stopped > 3


@pytest.mark.parametrize("kind", ["attention", "hybrid"])
def test_a_batch_of_several_sequences(tiny_model: Callable[[str], Path], kind: str) -> None:
    options = {"n_seq_max": 3, "kv_unified": True}
    with pyllama.Model(tiny_model(kind)) as model, _context(model, **options) as context, Batch(64) as batch:
        context.sequence(1).feed(BEFORE)
        batch.extend(PROMPT[:20], seq=0)
        last = batch.extend(PROMPT[20:60], seq=1)[-1]
        with AtOnce(), pytest.raises(Cancelled):
            context.decode(batch)
        assert [context.sequence(i).length for i in range(3)] == [0, len(BEFORE), 0]
        context.decode(batch)
        found = context.logits(last).copy().tobytes()
        with _context(model, **options) as other:
            other.sequence(1).feed(BEFORE)
            other.decode(batch)
            assert other.logits(last).copy().tobytes() == found


@pytest.mark.parametrize("kind", KINDS)
def test_a_generation_that_is_cancelled(tiny_model: Callable[[str], Path], kind: str) -> None:
    """It ends with the next piece; the context goes on from what it read, exactly."""
    with pyllama.Model(tiny_model(kind)) as model, _context(model) as context:
        options: dict[str, Any] = {
            "max_tokens": 60,
            "params": pyllama.SamplerParams(temperature=0, ignore_eos=True),
        }
        alone = pyllama.generate(model, PROMPT, **options)
        seen: list[int] = []
        with Cancel() as cancel, pytest.raises(Cancelled):
            for piece in pyllama.stream(context, PROMPT, **options):
                assert piece.token is not None
                seen.append(piece.token)
                if len(seen) == 9:
                    cancel.set()
        assert len(seen) == 9 and cancel.is_set
        assert pyllama.generate(context, [*PROMPT, *seen], **options).cached_tokens > 100
        again = pyllama.generate(context, PROMPT, **options, reuse=False)
        assert len(again.tokens) == 60 and again.tokens[:9] == tuple(seen) == alone.tokens[:9]


def test_nothing_is_begun_after_it(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("hybrid")) as model, _context(model) as context:
        context.decode(BEFORE)
        cancel = Cancel()
        cancel.set()
        for call in (
            lambda: context.decode([5]),
            lambda: context.decode(PROMPT),
            lambda: pyllama.generate(context, "abc"),
            lambda: pyllama.generate_many(model, ["abc", "def"]),
            lambda: pyllama.Embedder(model).embed("abc"),
        ):
            decodes = context.decodes
            with cancel, Cancel(), pytest.raises(Cancelled, match="were not decoded"):
                call()
            assert context.decodes == decodes
        assert scopes() == ()
        context.decode([5])


def test_a_short_step_of_a_recurrent_state_runs_to_its_end(tiny_model: Callable[[str], Path]) -> None:
    """To save the state would cost more than it brings."""
    with pyllama.Model(tiny_model("mamba2")) as model, _context(model) as context:
        with AtOnce():
            context.decode(PROMPT[: LONG - 1])
            with pytest.raises(Cancelled):
                context.decode(PROMPT)
        assert context.sequence().length == LONG - 1


def test_without_checkpoints_it_is_cleared(
    child: Any, stock_build: Any, tiny_model: Callable[[str], Path]
) -> None:
    """Half a state is none: stock llama.cpp would go on from it."""
    code = """
class AtOnce(pyllama.Cancel):
    def attach(self, flag):
        super().attach(flag)
        flag[0] = 1
for path in sys.argv[1:]:
    with pyllama.Model(path) as model, model.context(n_ctx=512, threads=1) as context:
        context.decode([5] * 20)
        with AtOnce():
            try:
                context.decode([7] * 100)
            except pyllama.errors.Cancelled as error:
                print(context.sequence().length, error.cleared, error)
        first = pyllama.generate(context, [9] * 50, max_tokens=9, temperature=0).tokens
        print(first == pyllama.generate(model, [9] * 50, max_tokens=9, temperature=0).tokens)
"""
    paths = [tiny_model(kind) for kind in ("attention", "mamba2", "hybrid")]
    said = child(code, *paths, PYLLAMA_BUILD=str(stock_build.folder)).stdout.splitlines()
    assert said[0].startswith("20 ()") and said[1::2] == ["True"] * 3
    for line in said[2::2]:
        assert line.startswith("0 (0,)") and "were cleared" in line


def test_on_a_device(loopback: Loopback, tiny_model: Callable[[str], Path], caplog: Any) -> None:
    """Its graphs run to their ends; the CPU's part, at the beginning of each ubatch, stops."""
    for kind in ("attention", "hybrid"):
        with pyllama.Model(tiny_model(kind)) as model, _context(model) as context:
            assert model.size > 0 and loopback.stats().live_bytes > 0
            context.decode(BEFORE)
            with AtOnce(), pytest.raises(Cancelled):
                context.decode(PROMPT)
            assert context.sequence().length == len(BEFORE)
            context.decode(PROMPT)
            assert context.logits().copy().tobytes() == _exact(model, BEFORE)


def test_other_failures_are_no_cancellations(tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model, _context(model, n_ctx=256) as context:
        with Cancel(), pytest.raises(DecodeError, match="context is full") as raised:
            context.decode(PROMPT * 3)
        assert not isinstance(raised.value, Cancelled)


def test_one_for_several_threads(tiny_model: Callable[[str], Path]) -> None:
    cancel = Cancel()
    ended: list[str] = []
    with pyllama.Model(tiny_model("attention")) as model:
        contexts = [_context(model) for _ in range(3)]

        def work(context: pyllama.Context) -> None:
            try:
                with cancel:
                    while True:
                        context.clear()
                        context.decode(PROMPT)
            except Cancelled:
                ended.append("cancelled")

        threads = [threading.Thread(target=work, args=(context,)) for context in contexts]
        for thread in threads:
            thread.start()
        while any(context.decodes < 6 for context in contexts):
            time.sleep(0.001)
        free = _context(model)
        cancel.set()
        free.decode(PROMPT)  # what is outside the blocks goes on
        for thread in threads:
            thread.join()
    assert ended == ["cancelled"] * 3


INTERRUPT = """
import logging, os, signal, threading, time
from pyllama.errors import Cancelled
lines = []
class Keep(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
logging.getLogger("pyllama").addHandler(Keep())
def soon(context):
    began = context.decodes
    def run():
        while context.decodes == began:
            time.sleep(0.001)
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=run, daemon=True).start()
"""


def test_ctrl_c_during_a_long_prompt(child: Any) -> None:
    """Within one node: llama.cpp itself says that it threw away what it had begun."""
    code = (
        INTERRUPT
        + """
with pyllama.Model(MODEL) as model, model.context(n_ctx=2048, threads=1) as context:
    alone = pyllama.generate(context, "Once upon a time", max_tokens=6, temperature=0).tokens
    for call in (lambda: context.decode([5] * 1900), lambda: pyllama.generate(context, [6] * 1900)):
        context.clear()
        lines.clear()
        soon(context)
        try:
            call()
        except KeyboardInterrupt:
            print("interrupted", context.sequence().length, any("removing" in line for line in lines))
        print(signal.set_wakeup_fd(-1))
    print(alone == pyllama.generate(context, "Once upon a time", max_tokens=6, temperature=0).tokens)
"""
    )
    assert child(code).stdout.splitlines() == ["interrupted 0 True", "-1"] * 2 + ["True"]


def test_ctrl_c_with_a_handler_of_ones_own(child: Any) -> None:
    """It may not raise, so the decode goes on; a wake-up descriptor of somebody else stays in use."""
    code = (
        INTERRUPT
        + """
import socket
came = []
signal.signal(signal.SIGINT, lambda *_: came.append(1))
with pyllama.Model(MODEL) as model, model.context(n_ctx=1024, threads=1) as context:
    soon(context)
    context.decode([5] * 300)
    print(context.sequence().length, came)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    one, other = socket.socketpair()
    other.setblocking(False)
    signal.set_wakeup_fd(other.fileno())
    soon(context)
    try:
        context.decode([5] * 300)
    except KeyboardInterrupt:
        print("interrupted", signal.set_wakeup_fd(-1) == other.fileno(), one.recv(9))
"""
    )
    said = child(code).stdout.splitlines()
    assert said == ["300 [1]", "interrupted True b'\\x02'"]

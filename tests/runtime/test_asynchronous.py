"""asyncio: the loop goes on, answers are those of the plain calls, and what nobody waits for stops."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import pyllama
from pyllama import SamplerParams, achat, agenerate, agenerate_many, astream, astream_chat, astream_many
from pyllama.asynchronous import AHEAD, ChatOptions, ManyOptions, Options, _Worker
from pyllama.errors import Cancelled, ContextError, GenerationErrors, UsageError
from pyllama.prefix import places

pytestmark = pytest.mark.matrix

GREEDY: dict[str, Any] = {"params": SamplerParams(temperature=0, ignore_eos=True)}
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
LONG = [5 + i * i % 200 for i in range(3000)]


@pytest.fixture
def model(tiny_model: Callable[[str], Path]) -> Iterator[pyllama.Model]:
    with pyllama.Model(tiny_model("attention")) as opened:
        yield opened
    ended()


def ended() -> None:
    """Wait for the end of every thread of ours; whoever calls this has told each of them to end."""
    for thread in threading.enumerate():
        if thread.name == "pyllama-async":
            thread.join(60)
            assert not thread.is_alive()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 120))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_the_same_pieces(model: pyllama.Model) -> None:
    async def main() -> None:
        plain = list(pyllama.stream(model, "abc", max_tokens=40, logprobs=1, **GREEDY))
        pieces = [piece async for piece in astream(model, "abc", max_tokens=40, logprobs=1, **GREEDY)]
        assert [(one.text, one.token, one.logprob) for one in pieces] == [
            (one.text, one.token, one.logprob) for one in plain
        ]
        whole = await agenerate(model, "abc", max_tokens=40, **GREEDY)
        assert pieces[-1].result is not None and whole.tokens == pieces[-1].result.tokens

    run(main)


def test_many(model: pyllama.Model) -> None:
    async def main() -> None:
        prompts = ["abc", "de", "fgh"]
        plain = pyllama.generate_many(model, prompts, max_tokens=20, **GREEDY)
        whole = await agenerate_many(model, prompts, max_tokens=20, **GREEDY)
        assert [one.tokens for one in whole] == [one.tokens for one in plain]
        texts = [""] * 3
        async for i, piece in astream_many(model, prompts, max_tokens=20, **GREEDY):
            texts[i] += piece.text
        assert texts == [one.text for one in plain]
        with pytest.raises(GenerationErrors) as raised:
            await agenerate_many(model, ["abc", []], max_tokens=4, **GREEDY)
        assert set(raised.value.errors) == {1} and raised.value.results[0] is not None

    run(main)


def test_other_tasks_go_on(model: pyllama.Model) -> None:
    """While a prompt is read in one decode, and several answers are made at the same time."""

    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        with model.context(n_ctx=4096, n_batch=4096, threads=1) as context:
            await agenerate(context, LONG, max_tokens=1)
            assert context.decodes == 1 and ticks > 10
        contexts = [model.context(n_ctx=256, threads=1) for _ in range(3)]
        alone = [pyllama.generate(model, letter, max_tokens=30, **GREEDY).tokens for letter in "abc"]
        found = await asyncio.gather(
            *(
                agenerate(one, letter, max_tokens=30, **GREEDY)
                for one, letter in zip(contexts, "abc", strict=True)
            )
        )
        assert [one.tokens for one in found] == alone
        ticking.cancel()

    run(main)


@pytest.mark.parametrize("kind", ["attention", "hybrid", "mamba2"])
def test_a_task_that_is_cancelled_stops_the_decode(tiny_model: Callable[[str], Path], kind: str) -> None:
    async def main() -> None:
        with pyllama.Model(tiny_model(kind)) as model:
            alone = pyllama.generate(model, "abc", max_tokens=9, **GREEDY).tokens
            with model.context(n_ctx=4096, n_batch=4096, threads=1) as context:
                task = asyncio.create_task(agenerate(context, LONG, max_tokens=1000, **GREEDY))
                await until(lambda: context.decodes > 0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                decodes = context.decodes
                # What was read up to a checkpoint stays, on a machine that is slow to cancel.
                assert context.sequence().length in {0, *places(0, 0, len(LONG), pyllama.Reuse().every)}
                await asyncio.sleep(0.02)
                assert context.decodes == decodes
                assert pyllama.generate(context, "abc", max_tokens=9, **GREEDY).tokens == alone

    run(main)


def test_a_timeout(model: pyllama.Model) -> None:
    async def main() -> None:
        with model.context(n_ctx=4096, threads=1) as context:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(agenerate(context, "abc", max_tokens=4000, **GREEDY), 0.05)
            decodes = context.decodes
            assert decodes < 4000
            done = await agenerate(context, "abc", max_tokens=5, **GREEDY)
            assert len(done.tokens) == 5 and context.decodes <= decodes + 5

    run(main)


def test_leaving_the_loop(model: pyllama.Model) -> None:
    async def main() -> None:
        with model.context(n_ctx=4096, threads=1) as context:
            async with aclosing(astream(context, "abc", max_tokens=4000, **GREEDY)) as pieces:
                async for piece in pieces:
                    assert piece.token is not None
                    break
            assert context.decodes <= 1 + AHEAD + 2
            ended()
            async for _ in astream(context, "abc", max_tokens=4000, **GREEDY):
                break  # without aclosing the loop closes it when nothing refers to it
            await until(lambda: not [one for one in threading.enumerate() if one.name == "pyllama-async"])
            assert len((await agenerate(context, "abc", max_tokens=5, **GREEDY)).tokens) == 5

    run(main)


def test_who_takes_nothing_is_not_run_away_from(model: pyllama.Model) -> None:
    async def main() -> None:
        with model.context(n_ctx=4096, threads=1) as context:
            async with aclosing(astream(context, "abc", max_tokens=2000, **GREEDY)) as pieces:
                await anext_(pieces)
                await until(lambda: context.decodes >= AHEAD + 1)
                await asyncio.sleep(0.1)
                assert context.decodes <= AHEAD + 2
                for _ in range(50):
                    await anext_(pieces)
                assert context.decodes >= 50

    run(main)


async def anext_(pieces: Any) -> Any:
    return await pieces.__anext__()


def test_the_keywords_are_those_of_the_plain_functions() -> None:
    pairs = (
        (Options, pyllama.stream),
        (ManyOptions, pyllama.stream_many),
        (ChatOptions, pyllama.stream_chat),
    )
    for options, plain in pairs:
        known = {
            name: str(parameter.annotation)
            for name, parameter in inspect.signature(plain).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        assert {name: one.__forward_arg__ for name, one in options.__annotations__.items()} == known


def test_chats(model: pyllama.Model) -> None:
    """The same reply as without asyncio, with a draft too, and the log-probabilities that were asked for."""
    options: dict[str, Any] = {"template": TEMPLATE, "max_tokens": 12, "temperature": 0}
    messages = [{"role": "user", "content": "abc"}]
    expected = pyllama.chat(model, messages, **options)

    async def main() -> None:
        reply = await achat(model, messages, logprobs=2, draft=pyllama.PromptLookup(), **options)
        assert reply.message == expected.message and reply.generation.tokens == expected.generation.tokens
        assert reply.generation.logprobs is not None and expected.generation.logprobs is None
        deltas = [delta async for delta in astream_chat(model, messages, **options)]
        assert "".join(delta.text for delta in deltas) == expected.text
        assert deltas[-1].reply is not None and deltas[-1].reply.message == expected.message

    asyncio.run(main())


def test_errors_pass_through(model: pyllama.Model) -> None:
    async def main() -> None:
        with pytest.raises(UsageError, match="max_tokens"):
            await agenerate(model, "abc", max_tokens=-1)
        with pytest.raises(TypeError, match="no_such_option"):
            await agenerate(model, "abc", no_such_option=1)
        with model.context(n_ctx=256) as context:
            with pytest.raises(ContextError, match="prompt has 3000 tokens"):
                async for _ in astream(context, LONG):
                    pass
            seen = 0
            with pytest.raises(ContextError, match="one context per generation"):
                async for _ in astream(context, "abc", max_tokens=200, **GREEDY):
                    if not seen:
                        context.clear()
                    seen += 1
            assert seen <= AHEAD + 2
        with pyllama.Cancel() as cancel:
            cancel.set()
            with pytest.raises(Cancelled):
                await agenerate(model, "abc")

    run(main)


def test_a_cancel_around_the_task(model: pyllama.Model) -> None:
    async def main() -> None:
        seen = 0
        with pyllama.Cancel() as cancel, pytest.raises(Cancelled):
            async for _ in astream(model, "abc", max_tokens=3000, **GREEDY):
                seen += 1
                if seen == 5:
                    cancel.set()
        assert 5 <= seen <= 5 + AHEAD + 2

    run(main)


def test_a_loop_that_is_dropped_does_not_keep_the_interpreter(
    child: Any, tiny_model: Callable[[str], Path]
) -> None:
    code = """
import asyncio
model = pyllama.Model(sys.argv[1])
pieces = pyllama.astream(model, "abc", max_tokens=3000)
async def first():
    return (await pieces.__anext__()).token
loop = asyncio.new_event_loop()
print(loop.run_until_complete(first()) is not None)
"""
    done = child(code, tiny_model("attention"))
    assert done.stdout == "True\n"


def test_a_loop_that_was_closed_does_not_keep_the_thread(model: pyllama.Model) -> None:
    """Nobody takes a piece from there any more: it ends, and does not wait for room."""
    loop = asyncio.new_event_loop()

    async def full() -> None:
        worker = _Worker(lambda: pyllama.stream(model, "abc", max_tokens=3000, **GREEDY))
        await worker.next()
        await until(lambda: len(worker._ready) >= AHEAD)

    loop.run_until_complete(full())
    loop.close()
    ended()


def test_a_loop_that_is_closed_first(model: pyllama.Model) -> None:
    """Before the thread has anything to tell: there is nobody to tell that it ended, either."""
    closed, told = threading.Event(), []

    def pieces() -> Iterator[int]:
        for i in range(3 * AHEAD):
            assert closed.wait(60)
            told.append(i)
            yield i

    async def begin() -> None:
        _Worker(pieces)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    closed.set()
    ended()
    assert told == [0]


def test_ctrl_c(child: Any) -> None:
    """It ends `asyncio.run` while a prompt is being read, at once and without a word from a thread."""
    code = """
import asyncio, os, signal, threading, time
with pyllama.Model(MODEL) as model, model.context(n_ctx=2048, threads=1) as context:
    def soon():
        while not context.decodes:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=soon, daemon=True).start()
    try:
        asyncio.run(pyllama.agenerate(context, [6] * 1900, max_tokens=1000))
    except KeyboardInterrupt:
        print("interrupted", context.sequence().length)
    print(len(pyllama.generate(context, "Once", max_tokens=3).tokens))
"""
    done = child(code)
    assert (done.stdout.splitlines(), done.stderr) == (["interrupted 0", "3"], "")

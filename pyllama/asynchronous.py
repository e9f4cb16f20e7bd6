"""Generation for asyncio: done in a thread of its own, which stops with the task that waits for it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar

from .cancelling import Cancel
from .chats.chatting import chat, stream_chat
from .chats.messages import Message, Tool
from .chats.reader import ChatDelta, ChatReply
from .chats.template import ChatTemplate
from .context import Context
from .drafts.drafting import Draft
from .errors import Cancelled
from .generation import generate, stream
from .many import generate_many, stream_many
from .model import Model
from .prefix import Reuse
from .response import Generation, Piece
from .sampling import SamplerParams

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")

AHEAD = 8  # pieces that are made before the first of them is taken
_LOOK = 1.0  # seconds, after which a thread that waits for room looks whether its loop is still there


class _Common(TypedDict, total=False):
    temperature: float | None
    seed: int | None
    stop: str | Sequence[str]
    logprobs: int | None
    parse_special: bool


class Options(_Common, total=False):
    """The keywords of `stream`."""

    max_tokens: int
    params: SamplerParams | None
    echo: bool
    reuse: bool | Reuse
    draft: Draft | None


class ManyOptions(_Common, total=False):
    """The keywords of `stream_many`."""

    max_tokens: int | Sequence[int]
    params: SamplerParams | Sequence[SamplerParams] | None
    max_sequences: int


class ChatOptions(TypedDict, total=False):
    """The keywords of `stream_chat`."""

    tools: Iterable[Tool | Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any]
    parallel_tool_calls: bool
    response_schema: object
    template: str | ChatTemplate | None
    template_args: Mapping[str, Any] | None
    thinking: bool
    max_tokens: int
    params: SamplerParams | None
    temperature: float | None
    seed: int | None
    stop: str | Sequence[str]
    logprobs: int | None
    reuse: bool | Reuse
    draft: Draft | None


def astream(
    source: Model | Context, prompt: str | Sequence[int], **options: Unpack[Options]
) -> AsyncGenerator[Piece, None]:
    """Generate from `prompt` and yield pieces, for `async for`; arguments and errors are those of `stream`.

    The work is done in a thread of its own, at most a few pieces ahead of who takes them. When the task is
    cancelled, a timeout comes or the generator is closed, what is being decoded stops as with `Cancel`, and
    has stopped when that is over: the context can be used again.
    """
    return _pieces(lambda: stream(source, prompt, **options))


def astream_many(
    source: Model | Context, prompts: Sequence[str | Sequence[int]], **options: Unpack[ManyOptions]
) -> AsyncGenerator[tuple[int, Piece], None]:
    """Do as `stream_many`, for `async for`; see `astream`."""
    return _pieces(lambda: stream_many(source, prompts, **options))


def astream_chat(
    source: Model | Context, messages: Iterable[Message], **options: Unpack[ChatOptions]
) -> AsyncGenerator[ChatDelta, None]:
    """Do as `stream_chat`, for `async for`; see `astream`."""
    return _pieces(lambda: stream_chat(source, messages, **options))


async def agenerate(
    source: Model | Context, prompt: str | Sequence[int], **options: Unpack[Options]
) -> Generation:
    """Generate from `prompt` and return the whole; arguments and errors are those of `generate`.

    Other tasks go on meanwhile. When this one is cancelled, what is being decoded stops; see `astream`.
    """
    return await _whole(lambda: generate(source, prompt, **options))


async def agenerate_many(
    source: Model | Context, prompts: Sequence[str | Sequence[int]], **options: Unpack[ManyOptions]
) -> list[Generation]:
    """Do as `generate_many` in a thread; see `agenerate`."""
    return await _whole(lambda: generate_many(source, prompts, **options))


async def achat(
    source: Model | Context, messages: Iterable[Message], **options: Unpack[ChatOptions]
) -> ChatReply:
    """Do as `chat` in a thread; see `agenerate`."""
    return await _whole(lambda: chat(source, messages, **options))


async def _whole(call: Callable[[], T]) -> T:
    """Return what a call returns that is made in a thread; stop it when this task is cancelled."""

    def once() -> Iterator[T]:
        yield call()

    async with aclosing(_pieces(once)) as values:
        async for value in values:
            return value
    raise AssertionError("a call that returns gives one value")


class _Worker(Generic[T]):
    """A thread that goes through an iterator, and the values that it has ready for a loop.

    What the two share is only touched in the loop's thread, but for `_room`, by which the worker waits.
    """

    def __init__(self, make: Callable[[], Iterator[T]]) -> None:
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._ready: deque[T] = deque()
        self._changed = asyncio.Event()
        self._room = threading.Semaphore(AHEAD)
        self._cancel = Cancel()
        self._ended = False
        self._error: BaseException | None = None
        run = contextvars.copy_context().run  # a `Cancel` around the task's code counts in the thread
        # A daemon: a loop that is dropped half-way must not keep the interpreter from exiting.
        threading.Thread(target=run, args=(self._work,), name="pyllama-async", daemon=True).start()

    async def next(self) -> T:
        """Return the next value. Raises StopAsyncIteration at the end, and what the iterator raised."""
        while not self._ready:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        self._room.release()
        return self._ready.popleft()

    async def stop(self) -> None:
        """Stop the thread and wait for its end, also when this task is cancelled meanwhile."""
        self._cancel.set()
        self._room.release()
        cancelled: asyncio.CancelledError | None = None
        while not self._ended:
            self._changed.clear()
            try:
                await self._changed.wait()
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            with self._cancel:
                values = self._make()
                try:
                    for value in values:
                        self._tell(self._put, value)
                        while not self._room.acquire(timeout=_LOOK) and not self._loop.is_closed():
                            pass  # who takes the pieces is slow, and may be gone with its loop
                        if self._cancel.is_set or self._loop.is_closed():
                            break
                finally:
                    values.close()  # type: ignore[attr-defined]
        except BaseException as caught:
            error = caught
        self._tell(self._end, error)

    def _tell(self, call: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop was closed under us: nobody takes anything any more
            self._cancel.set()
            self._room.release()  # nor makes room for more

    def _put(self, value: T) -> None:
        self._ready.append(value)
        self._changed.set()

    def _end(self, error: BaseException | None) -> None:
        self._ended = True
        # Nobody is told that it stopped because he wanted it to.
        self._error = None if self._cancel.is_set and isinstance(error, Cancelled) else error
        self._changed.set()


async def _pieces(make: Callable[[], Iterator[T]]) -> AsyncGenerator[T, None]:
    worker = _Worker(make)
    try:
        while True:
            try:
                value = await worker.next()
            except StopAsyncIteration:
                return
            yield value
    finally:
        await worker.stop()

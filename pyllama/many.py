"""Generation from many prompts at once: continuous batching over the sequences of one context."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from . import prefix
from .batch import Batch
from .context import Context
from .decode_errors import NO_ROOM
from .errors import ContextError, DecodeError, Error, GenerationErrors, UsageError
from .generation import _Text, fitting_size
from .logprobs import Scorer, TokenLogprob, check_top
from .model import Model
from .response import Generation, Piece
from .sampler import Sampler
from .sampling import SamplerParams
from .scheduling import Copy, Keep, Part, Refuse, Scheduler, Task
from .stopping import StopStrings

T = TypeVar("T")


def generate_many(
    source: Model | Context,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_tokens: int | Sequence[int] = 256,
    params: SamplerParams | Sequence[SamplerParams] | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    logprobs: int | None = None,
    parse_special: bool = False,
    max_sequences: int = 8,
) -> list[Generation]:
    """Generate from every prompt, several at once, and return the answers in the order of the prompts.

    Arguments and errors of use are those of `stream_many`. When prompts fail, the others are finished first;
    then GenerationErrors is raised, which has both.
    """
    _check_prompts(prompts)
    results: list[Generation | None] = [None] * len(prompts)
    errors: dict[int, Exception] = {}
    pieces = stream_many(
        source,
        prompts,
        max_tokens=max_tokens,
        params=params,
        temperature=temperature,
        seed=seed,
        stop=stop,
        logprobs=logprobs,
        parse_special=parse_special,
        max_sequences=max_sequences,
    )
    for i, piece in pieces:
        if piece.error is not None:
            errors[i] = piece.error
        elif piece.result is not None:
            results[i] = piece.result
    if errors:
        raise GenerationErrors(errors, results)
    return [one for one in results if one is not None]


def stream_many(
    source: Model | Context,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_tokens: int | Sequence[int] = 256,
    params: SamplerParams | Sequence[SamplerParams] | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    logprobs: int | None = None,
    parse_special: bool = False,
    max_sequences: int = 8,
) -> Iterator[tuple[int, Piece]]:
    """Generate from every prompt and yield (number of the prompt, Piece) as they come.

    Each prompt ends with a closing piece, which carries its `result`, or its `error` when it is empty, too
    long, or its sampler or grammar fails; that does not disturb the others. At most `max_sequences` are
    worked on at once. `source` is a model, for which a context is made and freed again, or a context, all of
    whose sequences are cleared and used. `max_tokens` and `params` are the same for all or one for each
    prompt; the other arguments are those of `stream`. A prompt that begins like another one is read from
    there on.

    Raises UsageError at once for arguments that are wrong for all. From the iterator come a failure of the
    backend, which ends all, and UsageError for a model that is no text generator.
    """
    model = source if isinstance(source, Model) else source.model
    if max_sequences < 1:
        raise UsageError(f"max_sequences={max_sequences} has to be at least 1")
    _check_prompts(prompts)
    n = len(prompts)
    limits = _each(max_tokens if isinstance(max_tokens, Sequence) else [max_tokens] * n, n, "max_tokens")
    wrong = [limit for limit in limits if limit < 0]
    if wrong:
        raise UsageError(f"max_tokens={wrong[0]} has to be at least 0")
    chosen = _each(params if isinstance(params, Sequence) else [params or SamplerParams()] * n, n, "params")
    if temperature is not None:
        chosen = [replace(one, temperature=temperature) for one in chosen]
    if seed is not None:
        chosen = [replace(one, seed=seed) for one in chosen]
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    StopStrings(stops)
    if logprobs is not None:
        check_top(model, logprobs)
    requests = [
        _Request(
            model.tokenize(prompt, parse_special=parse_special) if isinstance(prompt, str) else list(prompt),
            limit,
            one,
            _Text(model, stops),
        )
        for prompt, limit, one in zip(prompts, limits, chosen, strict=True)
    ]
    return _run(source, requests, logprobs, max_sequences)


def _check_prompts(prompts: object) -> None:
    """Refuse what is one prompt, and bytes, which are a sequence of numbers for a type checker, too."""
    if isinstance(prompts, (str, bytes, bytearray)):
        raise UsageError("the prompts are one text: give a list of them, or use stream or generate")
    for prompt in prompts if isinstance(prompts, Sequence) else ():
        if isinstance(prompt, (bytes, bytearray)):
            raise UsageError("a prompt is bytes: decode them to a str, or give a list of tokens")
        if isinstance(prompt, int):
            raise UsageError("a prompt is a number: give a list of prompts, each a str or a list of tokens")


def _each(values: Sequence[T], n: int, name: str) -> list[T]:
    if len(values) != n:
        raise UsageError(f"{name} has {len(values)} values for {n} prompts: give one, or one for each")
    return list(values)


@dataclass
class _Request:
    """One prompt and what has come of it."""

    tokens: list[int]
    max_tokens: int
    params: SamplerParams
    out: _Text
    size: int = 0
    """Tokens that its sequence may hold."""
    sampler: Sampler | None = None
    made: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    scores: list[TokenLogprob] | None = None
    cached: int | None = None
    start: float = 0.0
    prompt_seconds: float = 0.0

    @property
    def most(self) -> int:
        """Tokens that it may make."""
        return min(self.max_tokens, self.size - len(self.tokens) + 1)

    def end(self, reason: str) -> Piece:
        """Return the closing piece."""
        self.close()
        self.text.append(self.out.finish())
        result = Generation(
            text="".join(self.text),
            tokens=tuple(self.made),
            finish_reason=reason,
            prompt_tokens=len(self.tokens),
            prompt_seconds=self.prompt_seconds,
            seconds=time.perf_counter() - self.start,
            cached_tokens=self.cached or 0,
            stop=self.out.stop,
            logprobs=None if self.scores is None else tuple(self.scores),
        )
        return Piece(self.text[-1], None, reason, result=result)

    def fail(self, error: Exception) -> Piece:
        """Return the closing piece of one that is given up."""
        self.close()
        return Piece("", None, "error", error=error)

    def close(self) -> None:
        if self.sampler is not None:
            self.sampler.close()


def _run(
    source: Model | Context, requests: list[_Request], logprobs: int | None, max_sequences: int
) -> Iterator[tuple[int, Piece]]:
    if not requests:
        return
    if isinstance(source, Context):
        for request in requests:
            request.size = source.longest
        yield from _Many(source, requests, logprobs, max_sequences).pieces()
        return
    for request in requests:
        request.size = fitting_size(source, len(request.tokens), request.max_tokens)
    slots = min(max_sequences, len(requests))
    largest = sorted((request.size for request in requests), reverse=True)[:slots]
    with source.context(n_ctx=max(sum(largest), 1), n_seq_max=slots, kv_unified=True) as own:
        yield from _Many(own, requests, logprobs, max_sequences).pieces()


class _Many:
    """Carries out what the scheduler plans, on one context."""

    def __init__(
        self, context: Context, requests: list[_Request], logprobs: int | None, max_sequences: int
    ) -> None:
        self._context = context
        self._requests = requests
        self._logprobs = logprobs
        self._slots = min(max_sequences, context.n_seq_max, len(requests))
        self._vocab = len(context.model.vocab)
        self._has_kv = hasattr(context.library.raw, "llama_kv_room")

    def pieces(self) -> Iterator[tuple[int, Piece]]:
        """Yield what comes of every request."""
        context = self._context
        with context.guard:
            has_memory = context.library.raw.llama_get_memory(context.ptr)
            n_ubatch = int(context.library.raw.llama_n_ubatch(context.ptr))
        if not has_memory:
            raise UsageError(
                f"{context.model.architecture} models do not continue texts: use Embedder, or pyllama.lib"
            )
        start = time.perf_counter()
        tasks = []
        for i, request in enumerate(self._requests):
            request.start = start
            error = self._unfit(request)
            if error is not None:
                yield i, request.fail(error)
            elif request.max_tokens == 0:
                yield i, request.end("length")
            else:
                tasks.append(Task(i, list(request.tokens)))
        self._plan = plan = Scheduler(
            tasks,
            self._slots,
            batch=context.n_batch,
            chunk=min(context.n_batch, n_ubatch),
            trims=context.rewinds,
            copies=context.rewinds and context.shares_cells,
            mixes=not context.mixes_streams,
            pooled=context.shares_cells,
        )
        self._scorer = Scorer(context.model, self._logprobs) if self._logprobs is not None else None
        with context.lock:
            prefix.forget(context)
            context.clear()
            mine = context.clears
        try:
            with Batch(context.n_batch) as batch:
                while plan.busy:
                    with context.lock:
                        if context.clears != mine:
                            raise ContextError(
                                "the context was cleared while these generations were under way: use one "
                                "context per call"
                            )
                        out = list(self._step(batch))
                    yield from out
        finally:
            if self._scorer is not None:
                self._scorer.close()
            for request in self._requests:
                request.close()
            with context.lock:
                if not context.closed and context.clears == mine:
                    context.clear()

    def _unfit(self, request: _Request) -> Exception | None:
        """Say why a request cannot be begun."""
        tokens = request.tokens
        if not tokens:
            return ContextError("the prompt has no tokens: write something, or give the model's BOS token")
        if len(tokens) > request.size:
            return ContextError(
                f"the prompt has {len(tokens)} tokens, a sequence of the context holds {request.size}: use a "
                "larger n_ctx"
            )
        wrong = next((token for token in tokens if not 0 <= token < self._vocab), None)
        if wrong is not None:
            return ContextError(f"token {wrong} is not in a vocabulary of {self._vocab}")
        return None

    def _step(self, batch: Batch) -> Iterator[tuple[int, Piece]]:
        """Decode one batch and sample; the caller holds the lock."""
        plan, requests = self._plan, self._requests
        while (action := plan.admit(self._room)) is not None:
            if isinstance(action, Refuse):
                yield action.index, self._full(requests[action.index])
            else:
                self._apply(action)
        for slot, task in list(plan.running.items()):
            request = requests[task.index]
            if request.sampler is None:
                try:
                    request.sampler = Sampler(request.params, self._context.model)
                    request.sampler.accept_prompt(request.tokens)
                except Error as error:
                    yield task.index, request.fail(error)
                    self._finish(slot)
                    continue
                request.start = time.perf_counter()
                request.cached = len(plan.held[slot])
                request.scores = None if self._scorer is None else []
        parts = plan.fill()
        if not parts:
            return
        batch.clear()
        rows = [
            batch.extend(part.tokens, seq=part.slot, output=None if part.output else False)[-1]
            for part in parts
        ]
        try:
            self._context.decode(batch)
        except DecodeError as error:
            if error.code != NO_ROOM:
                raise
            relief = plan.relieve()
            if relief is not None:
                self._apply(relief)
            else:
                (slot,) = plan.running
                task = plan.running[slot]
                self._finish(slot)
                yield task.index, self._full(requests[task.index])
            return
        plan.done(parts)
        for part, row in zip(parts, rows, strict=True):
            if part.output:
                yield from self._choose(part, row)

    def _choose(self, part: Part, row: int) -> Iterator[tuple[int, Piece]]:
        """Sample the token that follows a part."""
        request, context = self._requests[part.index], self._context
        assert request.sampler is not None
        try:
            token = request.sampler.sample(context, row)
            score = self._scorer.score(context, token, row) if self._scorer is not None else None
        except Error as error:
            self._finish(part.slot)
            yield part.index, request.fail(error)
            return
        if not request.made:
            request.prompt_seconds = time.perf_counter() - request.start
        if context.model.vocab.is_eog(token):
            self._finish(part.slot)
            yield part.index, request.end("stop")
            return
        request.made.append(token)
        request.text.append(request.out.feed(token))
        if score is not None and request.scores is not None:
            request.scores.append(score)
        self._plan.generated(part.slot, token)
        yield part.index, Piece(request.text[-1], token, logprob=score)
        if request.out.stop is not None or len(request.made) >= request.most:
            self._finish(part.slot)
            yield part.index, request.end("stop" if request.out.stop is not None else "length")

    def _full(self, request: _Request) -> Piece:
        """End a request that has the context for itself and still lacks room."""
        if request.made:
            return request.end("length")
        return request.fail(
            ContextError(
                f"the prompt has {len(request.tokens)} tokens, and the context has no room for them: use a "
                "larger n_ctx or kv_tokens"
            )
        )

    def _finish(self, slot: int) -> None:
        action = self._plan.finish(slot)
        if action is not None:
            self._apply(action)

    def _apply(self, action: Keep | Copy) -> None:
        context = self._context
        if isinstance(action, Keep):
            context.sequence(action.slot).remove(action.n)
        else:
            raw = context.library.raw
            context.edited()
            memory = raw.llama_get_memory(context.ptr)
            raw.llama_memory_seq_cp(memory, action.source, action.slot, 0, action.n)

    def _room(self, slot: int) -> int | None:
        """Tell how many more tokens a sequence could take now; counted where the build cannot say."""
        context, held = self._context, self._plan.held
        if self._has_kv:
            return context.kv.room(slot)
        taken = sum(map(len, held)) if context.shares_cells else len(held[slot])
        return (context.n_ctx if context.shares_cells else context.n_ctx_seq) - taken

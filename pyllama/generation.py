"""Text generation: `stream` yields pieces, `generate` puts them together."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from . import prefix
from .batch import Batch
from .context import Context
from .decode_errors import NO_ROOM, STOPPED
from .drafts.drafting import Draft, check_most
from .drafts.speculation import Plain, Source, Speculation, Step
from .errors import ContextError, DecodeError, UsageError
from .logprobs import Scorer, TokenLogprob, check_top
from .model import Model
from .prefix import Reuse
from .response import Drafting, Generation, Piece
from .sampler import Sampler
from .sampling import SamplerParams
from .stopping import StopStrings
from .vocab import Detokenizer

_SCORED_AT_ONCE = 32  # tokens of a prompt; each one's logits take memory


@dataclass(frozen=True)
class _Request:
    """What a caller asked for, checked."""

    text: str
    tokens: list[int]
    max_tokens: int
    sampler: Sampler
    stop: tuple[str, ...]
    logprobs: int | None
    echo: bool
    reuse: Reuse | None
    draft: Draft | None
    where: str


def stream(
    source: Model | Context,
    prompt: str | Sequence[int],
    *,
    max_tokens: int = 256,
    params: SamplerParams | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    logprobs: int | None = None,
    echo: bool = False,
    parse_special: bool = False,
    reuse: bool | Reuse = True,
    draft: Draft | None = None,
) -> Iterator[Piece]:
    """Generate from `prompt` and yield a Piece per token, then a closing one with the whole.

    `source` is a model, for which a context of fitting size (at most the one it was trained
    for) is made and freed again, or a context. Of a context only sequence 0 is used and the others are
    cleared; with `reuse`, what it is known to hold of the same beginning (from the last generation,
    `Sequence.feed`, `load` or `restore`) is not read again.
    `temperature` and `seed` override `params`. `stop` are strings that end the text. `logprobs` asks for
    the log-probability of each token and of so many likeliest ones. `echo` puts the prompt in front.
    `parse_special` reads special tokens that are written out in the prompt: leave it off for text that you
    did not write yourself. `reuse` may be a `Reuse`, which says what is kept for the next prompt. `draft`
    guesses tokens ahead, which makes it faster and changes nothing else: see `PromptLookup`, `DraftModel` and
    `SelfDraft`. Raises ContextError when the prompt does not fit or is empty, UsageError for
    values out of range, for a grammar that does not parse and for a model that is no text generator.
    """
    if max_tokens < 0:
        raise UsageError(f"max_tokens={max_tokens} has to be at least 0")
    chosen = params or SamplerParams()
    if temperature is not None:
        chosen = replace(chosen, temperature=temperature)
    if seed is not None:
        chosen = replace(chosen, seed=seed)
    model = source if isinstance(source, Model) else source.model
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    StopStrings(stops)  # wrong values are told at once, not at the first piece
    if logprobs is not None:
        check_top(model, logprobs)
    if isinstance(prompt, bytes):  # a sequence of numbers, for a type checker too
        raise UsageError("the prompt is bytes: decode them to a str, or give a list of tokens")
    if isinstance(prompt, str):
        text, tokens = prompt, model.tokenize(prompt, parse_special=parse_special)
    else:
        tokens = list(prompt)
        text = model.detokenize(tokens, special=parse_special) if echo else ""
    if not tokens:
        raise ContextError("the prompt has no tokens: write something, or give the model's BOS token")
    if draft is not None:
        check_most(draft.most)
    policy = reuse if isinstance(reuse, Reuse) else Reuse()
    sampler = Sampler(chosen, model)
    kept = policy if reuse else None
    request = _Request(text, tokens, max_tokens, sampler, stops, logprobs, echo, kept, draft, policy.where)
    return _run(source, request)


def generate(
    source: Model | Context,
    prompt: str | Sequence[int],
    *,
    max_tokens: int = 256,
    params: SamplerParams | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    logprobs: int | None = None,
    echo: bool = False,
    parse_special: bool = False,
    reuse: bool | Reuse = True,
    draft: Draft | None = None,
) -> Generation:
    """Generate from `prompt` and return the whole; arguments and errors are those of `stream`."""
    for piece in stream(
        source,
        prompt,
        max_tokens=max_tokens,
        params=params,
        temperature=temperature,
        seed=seed,
        stop=stop,
        logprobs=logprobs,
        echo=echo,
        parse_special=parse_special,
        reuse=reuse,
        draft=draft,
    ):
        if piece.result is not None:
            return piece.result
    raise AssertionError("a stream ends with a closing piece")


def fitting_size(model: Model, prompt_tokens: int, max_tokens: int) -> int:
    """Return the n_ctx for a prompt and an answer: at most what the model was trained for."""
    wanted = prompt_tokens + max_tokens
    return min(wanted, model.n_ctx_train or wanted)


def _run(source: Model | Context, request: _Request) -> Iterator[Piece]:
    if isinstance(source, Context):
        yield from _pieces(source, request)
        return
    size = fitting_size(source, len(request.tokens), request.max_tokens)
    with source.context(n_ctx=size) as own:
        yield from _pieces(own, replace(request, reuse=None))


class _Text:
    """Turns tokens into text, up to a stop string."""

    def __init__(self, model: Model, stops: tuple[str, ...]) -> None:
        self._detokenizer = Detokenizer(model.vocab)
        self._stops = StopStrings(stops) if stops else None
        self.stop: str | None = None

    def feed(self, token: int) -> str:
        return self._until_stop(self._detokenizer.feed(token))

    def finish(self) -> str:
        rest = self._until_stop(self._detokenizer.finish())
        return rest + self._stops.finish() if self._stops is not None else rest

    def _until_stop(self, text: str) -> str:
        if self._stops is None or self.stop is not None:
            return text if self.stop is None else ""
        matched = self._stops.feed(text)
        self.stop = matched.stop
        return matched.text


@dataclass
class _Progress:
    """What the steps of a generation note down beside the tokens."""

    cached: int = 0
    prompt_seconds: float = 0.0
    prompt_scores: tuple[TokenLogprob, ...] | None = None
    ended: bool = False
    """Whether the model ended the text."""
    drafting: Drafting | None = None
    changes: tuple[int, int] = (-1, -1)
    """`Context.changes` when the prompt began to be read: as long as it is so, the context is ours."""


def _pieces(context: Context, request: _Request) -> Iterator[Piece]:
    start = time.perf_counter()
    progress, out = _Progress(), _Text(context.model, request.stop)
    text: list[str] = []
    made: list[int] = []
    scores: list[TokenLogprob] = []
    if request.echo:
        text.append(request.text)
        yield Piece(request.text, None)
    with closing(_tokens(context, request, progress, start)) as steps:
        for token, score in steps:
            made.append(token)
            text.append(out.feed(token))
            if score is not None:
                scores.append(score)
            yield Piece(text[-1], token, logprob=score)
            if out.stop is not None:
                break
    text.append(out.finish())
    reason = "stop" if progress.ended or out.stop is not None else "length"
    result = Generation(
        text="".join(text),
        tokens=tuple(made),
        finish_reason=reason,
        prompt_tokens=len(request.tokens),
        prompt_seconds=progress.prompt_seconds,
        seconds=time.perf_counter() - start,
        cached_tokens=progress.cached,
        stop=out.stop,
        logprobs=tuple(scores) if request.logprobs is not None else None,
        prompt_logprobs=progress.prompt_scores,
        drafting=progress.drafting,
    )
    yield Piece(text[-1], None, reason, result=result)


def _tokens(
    context: Context, request: _Request, progress: _Progress, start: float
) -> Generator[Step, None, None]:
    """Read the prompt, then sample and decode in turn, up to the model's end of the text."""
    model, tokens = context.model, request.tokens
    size = context.longest
    if len(tokens) > size:
        raise _too_long(context, len(tokens))
    with context.guard:
        has_memory = context.library.raw.llama_get_memory(context.ptr)
    if not has_memory:
        raise UsageError(f"{model.architecture} models do not continue texts: use Embedder, or pyllama.lib")
    is_eog = model.vocab.is_eog
    scorer = Scorer(model, request.logprobs) if request.logprobs is not None else None
    source: Source | None = None
    try:
        with request.sampler as sampler:
            with context.lock:
                _read(context, request, scorer, progress)
            sampler.accept_prompt(tokens)
            progress.prompt_seconds = time.perf_counter() - start
            source = _source(context, request, sampler, scorer)
            last: int | None = None
            for left in range(min(request.max_tokens, size - len(tokens) + 1), 0, -1):
                with context.lock:
                    if context.clears != progress.changes[0]:
                        raise ContextError(
                            "the context was cleared, or read another text, while this generation was under "
                            "way: use one context per generation"
                        )
                    try:
                        token, score = source.step(last, left)
                    except DecodeError as error:
                        if error.code == NO_ROOM and last is not None:
                            return  # as where n_ctx ends
                        raise
                if last is None:
                    progress.prompt_seconds = time.perf_counter() - start
                if is_eog(token):
                    progress.ended = True
                    return
                yield token, score
                last = token
    except DecodeError as error:
        if error.code not in (NO_ROOM, STOPPED):
            progress.changes = (-1, -1)  # nobody knows what is there
        raise
    finally:
        with context.lock:
            if source is not None:
                progress.drafting = source.close()
            if progress.changes == context.changes:  # nobody else has touched what is there
                context.kept.stamp = context.stamp
        if scorer is not None:
            scorer.close()


def _too_long(context: Context, n: int) -> ContextError:
    size = context.n_ctx_seq
    if n > size:
        return ContextError(f"the prompt has {n} tokens, the context holds {size}: use a larger n_ctx")
    model = context.model
    return ContextError(
        f"the prompt has {n} tokens, {model.architecture} knows {model.n_positions} positions: split the text"
    )


def _source(context: Context, request: _Request, sampler: Sampler, scorer: Scorer | None) -> Source:
    if request.draft is None:
        return Plain(context, sampler, scorer)
    return Speculation(context, sampler, scorer, request.draft, request.tokens, request.where)


def _read(context: Context, request: _Request, scorer: Scorer | None, progress: _Progress) -> None:
    """Read the prompt as far as the context does not hold it; the caller holds the lock."""
    tokens = request.tokens
    scored = scorer is not None and request.echo
    if not request.max_tokens and not scored:
        return
    reuse = request.reuse is not None and not scored
    progress.cached, departs = prefix.prepare(context, tokens, reuse=reuse)
    progress.changes = context.changes
    if scorer is not None and scored:
        progress.prompt_scores = _read_scored(context, tokens, scorer)
        context.kept.tokens += tokens
    else:
        prefix.read(context, tokens, progress.cached, departs, request.reuse)


def _read_scored(context: Context, tokens: list[int], scorer: Scorer) -> tuple[TokenLogprob, ...]:
    scores = [scorer.unscored(tokens[0])]
    with Batch(min(_SCORED_AT_ONCE, context.n_batch)) as batch:
        for start in range(0, len(tokens), batch.capacity):
            batch.clear()
            places = batch.extend(tokens[start : start + batch.capacity], output=True)
            context.decode(batch)
            following = tokens[start + 1 : start + 1 + len(places)]
            scores += [scorer.score(context, token, i) for i, token in zip(places, following, strict=False)]
    return tuple(scores)

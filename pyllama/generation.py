"""Text generation: `stream` yields pieces, `generate` puts them together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .context import Context
from .errors import ContextError, UsageError
from .model import Model
from .sampling import Sampler, SamplerParams
from .vocab import Detokenizer


@dataclass(frozen=True)
class Piece:
    """What one step of a generation gave."""

    text: str
    """Whole characters only; empty while a character is incomplete."""
    token: int | None
    """The token; None for the closing piece."""
    finish_reason: str | None = None
    """Set on the closing piece: `stop` (the model ended), `length` (max_tokens or a full context)."""


@dataclass(frozen=True)
class Generation:
    """A finished generation."""

    text: str
    tokens: tuple[int, ...]
    """The generated tokens, the one that ended the text not among them."""
    finish_reason: str
    """`stop` or `length`."""
    prompt_tokens: int
    """Number of tokens of the prompt."""
    prompt_seconds: float
    """Time to read the prompt, up to the first token."""
    seconds: float
    """Time of the whole call."""

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second, the reading of the prompt not counted."""
        later = self.seconds - self.prompt_seconds
        return (len(self.tokens) - 1) / later if later > 0 and len(self.tokens) > 1 else 0.0


def stream(
    source: Model | Context,
    prompt: str | Sequence[int],
    *,
    max_tokens: int = 256,
    params: SamplerParams | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    parse_special: bool = False,
) -> Iterator[Piece]:
    """Generate from `prompt` and yield a Piece per token, then a closing one.

    `source` is a model, for which a context of fitting size (at most the one it was trained
    for) is made and freed again, or a context, which is cleared first. `temperature` and
    `seed` override `params`. Raises ContextError when the prompt does not fit or is empty,
    UsageError for values out of range.
    """
    if max_tokens < 0:
        raise UsageError(f"max_tokens={max_tokens} has to be at least 0")
    chosen = params or SamplerParams()
    if temperature is not None:
        chosen = replace(chosen, temperature=temperature)
    if seed is not None:
        chosen = replace(chosen, seed=seed)
    model = source if isinstance(source, Model) else source.model
    tokens = model.tokenize(prompt, parse_special=parse_special) if isinstance(prompt, str) else list(prompt)
    if not tokens:
        raise ContextError("the prompt has no tokens: write something, or give the model's BOS token")
    return _run(source, model, tokens, max_tokens, chosen)


def fitting_size(model: Model, prompt_tokens: int, max_tokens: int) -> int:
    """Return the n_ctx for a prompt and an answer: at most what the model was trained for."""
    wanted = prompt_tokens + max_tokens
    return min(wanted, model.n_ctx_train or wanted)


def _run(
    source: Model | Context, model: Model, tokens: list[int], max_tokens: int, params: SamplerParams
) -> Iterator[Piece]:
    own = (
        source.context(n_ctx=fitting_size(source, len(tokens), max_tokens))
        if isinstance(source, Model)
        else None
    )
    context = source if isinstance(source, Context) else own
    assert context is not None
    try:
        context.clear()
        size = context.n_ctx_seq
        if len(tokens) > size:
            raise ContextError(
                f"the prompt has {len(tokens)} tokens, the context holds {size}: use a larger n_ctx"
            )
        room = min(max_tokens, size - len(tokens) + 1)
        with Sampler(params) as sampler:
            detokenizer = Detokenizer(model.vocab)
            is_eog = model.vocab.is_eog
            reason = "length"
            batch: Sequence[int] = tokens
            mine = context.clears
            for _ in range(room):
                with context.lock:
                    if context.clears != mine:
                        raise ContextError(
                            "the context was cleared while this generation was under way: "
                            "use one context per generation"
                        )
                    context.decode(batch)
                    token = sampler.sample(context)
                if is_eog(token):
                    reason = "stop"
                    break
                yield Piece(detokenizer.feed(token), token)
                batch = (token,)
            yield Piece(detokenizer.finish(), None, reason)
    finally:
        if own is not None:
            own.close()


def generate(
    source: Model | Context,
    prompt: str | Sequence[int],
    *,
    max_tokens: int = 256,
    params: SamplerParams | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    parse_special: bool = False,
) -> Generation:
    """Generate from `prompt` and return the whole; arguments and errors are those of `stream`."""
    model = source if isinstance(source, Model) else source.model
    start = time.perf_counter()
    first = 0.0
    tokens = model.tokenize(prompt, parse_special=parse_special) if isinstance(prompt, str) else list(prompt)
    texts: list[str] = []
    made: list[int] = []
    reason = "length"
    for piece in stream(
        source, tokens, max_tokens=max_tokens, params=params, temperature=temperature, seed=seed
    ):
        first = first or time.perf_counter() - start
        texts.append(piece.text)
        if piece.token is not None:
            made.append(piece.token)
        if piece.finish_reason is not None:
            reason = piece.finish_reason
    return Generation(
        text="".join(texts),
        tokens=tuple(made),
        finish_reason=reason,
        prompt_tokens=len(tokens),
        prompt_seconds=first,
        seconds=time.perf_counter() - start,
    )

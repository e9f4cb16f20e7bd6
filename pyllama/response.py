"""What a generation gives: pieces while it goes on, and the whole at its end."""

from __future__ import annotations

from dataclasses import dataclass

from .logprobs import TokenLogprob
from .markup import table


@dataclass(frozen=True)
class Drafting:
    """What drafts did for a generation: counts of tokens, and seconds.

    Where a device computes in the background, a part of the seconds of one phase shows up in the next one.
    """

    rounds: int = 0
    """Drafts that were checked, each in one batch; the other tokens took a step of the model each."""
    drafted: int = 0
    """Tokens of all of them."""
    accepted: int = 0
    """Those that were right, and are part of the generation."""
    draft_seconds: float = 0.0
    """Time to guess; a draft model's time to read the prompt is in it."""
    verify_seconds: float = 0.0
    """Time to check the drafts."""
    save_seconds: float = 0.0
    """Time to save states before drafts, where tokens cannot be taken back."""
    restore_seconds: float = 0.0
    """Time to take wrong tokens back. Reading again what was right is part of checking the next draft."""
    checkpoint_bytes: int = 0
    """Bytes of the state that was saved before a draft; 0 where tokens can be taken back."""

    @property
    def acceptance(self) -> float:
        """The part of the drafted tokens that was right, 0…1."""
        return self.accepted / self.drafted if self.drafted else 0.0


@dataclass(frozen=True)
class Generation:
    """A finished generation."""

    text: str
    """With `echo`, the prompt comes first. A stop string is not in it."""
    tokens: tuple[int, ...]
    """The generated tokens, the one that ended the text not among them, those of a stop string are."""
    finish_reason: str
    """`stop` (the model ended, or a stop string came) or `length` (max_tokens, or a full context)."""
    prompt_tokens: int
    """Number of tokens of the prompt."""
    prompt_seconds: float
    """Time to read the prompt, up to the first token."""
    seconds: float
    """Time of the whole call; what a caller of `stream` did between two pieces is in it."""
    cached_tokens: int = 0
    """Tokens of the prompt that the context held already, so that they were not read again."""
    stop: str | None = None
    """The stop string that ended the text; None when the model ended it, or nothing did."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One entry for each of `tokens`, when they were asked for."""
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """One entry for each token of the prompt, with `echo` and `logprobs`."""
    drafting: Drafting | None = None
    """How the drafts did, when there were any to be."""

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second, the reading of the prompt not counted."""
        later = self.seconds - self.prompt_seconds
        return (len(self.tokens) - 1) / later if later > 0 and len(self.tokens) > 1 else 0.0

    @property
    def prompt_tokens_per_second(self) -> float:
        """Tokens of the prompt that were read per second."""
        return (self.prompt_tokens - self.cached_tokens) / self.prompt_seconds if self.prompt_seconds else 0.0

    def _repr_html_(self) -> str:
        ended = f"{self.finish_reason}{'' if self.stop is None else f' ({self.stop!r})'}"
        read = (
            f"{self.prompt_tokens} tokens, {self.cached_tokens} of them cached, {self.prompt_seconds:.3f} s"
        )
        made = f"{len(self.tokens)} tokens, {self.tokens_per_second:.1f} per second"
        rows = {"text": self.text, "finish_reason": ended, "prompt": read, "generated": made}
        if self.drafting is not None:
            rows["drafted"] = f"{self.drafting.drafted} tokens, {self.drafting.accepted} of them right"
        return table(rows)


@dataclass(frozen=True)
class Piece:
    """What one step of a generation gave."""

    text: str
    """Whole characters only; empty while a character, or what may become a stop string, is incomplete."""
    token: int | None
    """The token; None for the closing piece and for an echoed prompt."""
    finish_reason: str | None = None
    """Set on the closing piece, as in `Generation`; `error` where `stream_many` had to give up a prompt."""
    logprob: TokenLogprob | None = None
    """How likely the token was, when that was asked for."""
    result: Generation | None = None
    """The whole, on the closing piece."""
    error: Exception | None = None
    """Why the prompt had to be given up, on its closing piece; `stream_many` only."""

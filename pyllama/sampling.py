"""How the next token is chosen: the settings of llama.cpp's samplers, and the chain made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import UsageError

ORDER = ("penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature")
_MOST_TOKENS = 2**20  # that a sampler looks back; it allocates for them
_LONGEST_BREAKER = 40  # bytes; upstream cuts off the rest
_INT32 = 2**31 - 1
_RANDOM_SEED = 2**32 - 1  # LLAMA_DEFAULT_SEED: other tokens each time


@dataclass(frozen=True)
class GrammarTrigger:
    """What a grammar waits for: a word, a pattern (regular expression, ECMAScript) or a token.

    The grammar then begins with that word, or with the pattern's first group. `pattern_full` has to match all
    of the text so far. Raises UsageError for another kind, or one that lacks what it needs.
    """

    kind: str
    value: str = ""
    token: int = -1

    def __post_init__(self) -> None:
        if self.kind not in ("word", "pattern", "pattern_full", "token"):
            raise UsageError(f"a trigger is a word, pattern, pattern_full or token, not {self.kind!r}")
        if self.kind == "token" and self.token < 0:
            raise UsageError("a trigger of the kind token needs the token's number")
        if self.kind != "token" and (not self.value or "\0" in self.value):
            raise UsageError("a trigger needs text, without U+0000")


@dataclass(frozen=True)
class SamplerParams:
    """How the next token is chosen. The defaults are those of llama.cpp's own programs at 2026-10.

    Before, DRY looked back over the whole context there; here it is `dry_last_n` tokens at every pin.
    The samplers work one after the other, as in `order`; grammar and biases come before all of them.
    Raises UsageError for a value out of range.
    """

    temperature: float = 0.8
    """0 takes the most likely token, always."""
    top_k: int = 40
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 0.95
    """Keep the most likely tokens that together have this probability; 1 keeps all."""
    min_p: float = 0.05
    """Keep tokens at least this likely relative to the best one; 0 keeps all."""
    typical_p: float = 1.0
    """Keep the most typical tokens that together have this probability; 1 keeps all (arXiv:2202.00666)."""
    top_n_sigma: float = 0.0
    """Keep logits within so many standard deviations of the best one; 0 keeps all (arXiv:2411.07641)."""
    xtc_probability: float = 0.0
    """How often the likeliest of several good tokens are taken out; 0 never."""
    xtc_threshold: float = 0.1
    """What counts as a good token, as a probability; above 0.5 there is never more than one."""
    dynatemp_range: float = 0.0
    """The temperature varies by this much up and down, with the entropy; 0 not at all (arXiv:2309.02772)."""
    dynatemp_exponent: float = 1.0
    """How the entropy maps to the temperature."""
    repeat_penalty: float = 1.0
    """Divides the logits of tokens that came before; 1 does nothing."""
    frequency_penalty: float = 0.0
    """Taken off the logit for each time that a token came before."""
    presence_penalty: float = 0.0
    """Taken off the logit once when a token came before."""
    repeat_last_n: int = 64
    """How many tokens back the three penalties look, the prompt's among them."""
    dry_multiplier: float = 0.0
    """Strength of DRY, which penalises going on with a repetition; 0 switches it off."""
    dry_base: float = 1.75
    """The penalty grows by this factor with each token that is repeated."""
    dry_allowed_length: int = 2
    """Repetitions up to this length, in tokens, cost nothing."""
    dry_last_n: int = 64
    """How many tokens back DRY looks."""
    dry_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    """Texts that no repetition reaches across."""
    mirostat: int = 0
    """1 or 2: the version of Mirostat, which takes the place of all other samplers (arXiv:2007.14966)."""
    mirostat_tau: float = 5.0
    """The surprise that Mirostat aims at, in bits."""
    mirostat_eta: float = 0.1
    """Mirostat's learning rate."""
    adaptive_target: float | None = None
    """Choose tokens near this probability in the long run; None switches it off. From 2026-05 on."""
    adaptive_decay: float = 0.9
    """How slowly that adapts: it looks back about 1 / (1 - decay) tokens."""
    min_keep: int = 0
    """Samplers that take tokens out leave at least so many."""
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """Added to the logits of tokens; `-math.inf` forbids one."""
    ignore_eos: bool = False
    """Never end the text: forbid every token that would."""
    grammar: str | None = None
    """A grammar in GBNF that the whole text has to follow."""
    grammar_root: str = "root"
    """The rule that the grammar starts with."""
    grammar_prefix: str = ""
    """What the grammar begins with and the prompt ends with, as in chats. Needs the chat library."""
    grammar_triggers: tuple[GrammarTrigger, ...] = ()
    """The grammar applies only from one of these on; none for the whole text. Needs the chat library."""
    order: tuple[str, ...] = ORDER
    """Which samplers there are, and in which order they work."""
    seed: int | None = None
    """Seed of the random choice, 0 to 2**32 - 2; None takes a new one each time."""

    def __post_init__(self) -> None:
        for name in ("temperature", "dynatemp_range", "mirostat_tau", "mirostat_eta", "top_n_sigma"):
            self._check(name, 0, math.inf)
        for name in ("top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold"):
            self._check(name, 0, 1)
        for name in ("frequency_penalty", "presence_penalty", "dynatemp_exponent", "dry_multiplier"):
            self._check(name, -1e30, 1e30)
        self._check("repeat_penalty", 1e-30, 1e30)
        self._check("dry_base", 1, 1e30)
        self._check("adaptive_decay", 0, 0.99)
        if self.adaptive_target is not None:
            self._check("adaptive_target", 0, 1)
        for name in ("top_k", "min_keep", "dry_allowed_length"):
            self._check(name, 0, _INT32)
        for name in ("repeat_last_n", "dry_last_n"):
            self._check(name, 0, _MOST_TOKENS)
        self._check("mirostat", 0, 2)
        if self.seed is not None and not 0 <= self.seed < _RANDOM_SEED:
            raise UsageError(
                f"seed={self.seed} has to be between 0 and 2**32 - 2 (2**32 - 1 means a random one to "
                "llama.cpp): give None for a new one each time"
            )
        for token, bias in self.logit_bias.items():
            if math.isnan(bias) or bias == math.inf:
                raise UsageError(
                    f"logit_bias: {bias} for token {token} is no bias: give a number, or -math.inf"
                )
        for breaker in self.dry_breakers:
            if not breaker or "\0" in breaker or len(breaker.encode()) > _LONGEST_BREAKER:
                raise UsageError(
                    f"dry_breakers: {breaker!r} has to have 1 to {_LONGEST_BREAKER} bytes, none of them 0"
                )
        for text, name in ((self.grammar or "", "grammar"), (self.grammar_root, "grammar_root")):
            if "\0" in text:
                raise UsageError(f"{name} holds a character U+0000, which no grammar may: take it out")
        for name in self.order:
            if name not in ORDER or self.order.count(name) > 1:
                raise UsageError(f"order: {name!r} is twice there, or none of {', '.join(ORDER)}")

    def _check(self, name: str, lowest: float, highest: float) -> None:
        value = getattr(self, name)
        if not lowest <= value <= highest:
            most = f" and at most {highest:g}" if highest < math.inf else ""
            raise UsageError(f"{name}={value} has to be at least {lowest:g}{most}")

    @property
    def looks_back(self) -> int:
        """How many of the tokens before matter, the prompt's among them."""
        if self.mirostat:
            return 0
        penalties = self.repeat_last_n if "penalties" in self.order and self._penalises() else 0
        dry = self.dry_last_n if "dry" in self.order and self.dry_multiplier else 0
        return max(penalties, dry)

    def _penalises(self) -> bool:
        return (self.repeat_penalty, self.frequency_penalty, self.presence_penalty) != (1, 0, 0)

    def active(self) -> tuple[str, ...]:
        """Return the samplers of `order` that do something with these settings."""
        on = {
            "penalties": self._penalises() and self.repeat_last_n > 0,
            "dry": self.dry_multiplier != 0 and self.dry_last_n > 0,
            "top_n_sigma": self.top_n_sigma > 0,
            "top_k": self.top_k > 0,
            "typical_p": self.typical_p < 1,
            "top_p": self.top_p < 1,
            "min_p": self.min_p > 0,
            "xtc": self.xtc_probability > 0 and self.xtc_threshold <= 0.5,
            "temperature": self.temperature != 1 or self.dynatemp_range > 0,
        }
        if self.temperature == 0:
            on["temperature"] = False  # the best of what is left is taken
            if not (on["typical_p"] or on["xtc"]):  # those two may take the best one out, the others never do
                on.update(top_n_sigma=False, top_k=False, top_p=False, min_p=False)
        return tuple(name for name in self.order if on[name])

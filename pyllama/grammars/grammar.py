"""A grammar in GBNF that decides which tokens may come next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..candidates import Candidates
from ..errors import ContextError, UsageError
from ..native import log
from ..native.chat_library import chat_library
from .check import check
from .waiting import Waiting

if TYPE_CHECKING:
    from ..model import Model
    from ..native.loader import Library
    from ..sampling import SamplerParams

_FORBIDDEN = -math.inf


class Grammar:
    """llama.cpp's grammar for one text. Its owner holds a lock, and frees it before the model.

    It is made under the model's guard, so nothing here may take another lock.

    Upstream ends the process when it is told of a token that the grammar does not allow, so every token
    is asked about first. Raises UsageError, with upstream's words, for a text that does not parse.
    """

    def __init__(self, library: Library, params: SamplerParams, model: Model) -> None:
        self._raw = library.raw
        self._waits = Waiting(params.grammar_triggers) if params.grammar_triggers else None
        text, root = params.grammar or "", params.grammar_root
        data = check(text, root)
        with log.collected() as lines:
            if self._waits is not None:
                self._ptr = self._waits.grammar(library, text, root, model)
            else:
                self._ptr = self._raw.llama_sampler_init_grammar(model.vocab.ptr, data, root.encode())
            words = lines()
        if not self._ptr:
            raise UsageError(f"the grammar cannot be used: {words or 'it does not parse'}")
        self._prefix = _tokens(model, params.grammar_prefix)
        try:
            self._begin()
        except UsageError:
            self._raw.llama_sampler_free(self._ptr)
            raise
        self._greedy = self._raw.llama_sampler_init_greedy()
        self._candidates = Candidates(library, len(model.vocab))
        self._one = library.ffi.new("llama_token_data[1]")
        self._alone = library.ffi.new("llama_token_data_array *")

    def sample(self, chain: Any, logits: Any) -> int:
        """Choose by `chain` and let both know. Raises ContextError when no token is allowed.

        The chain samples freely first; only when the grammar forbids that token is every one asked about:
        most tokens that a model proposes are allowed, and asking is slow.
        """
        raw = self._raw
        array = self._candidates.fill(logits)
        raw.llama_sampler_apply(chain, array)
        token = _selected(array)
        if token is None or not self.allows(token):
            array = self._candidates.fill(logits)
            raw.llama_sampler_apply(self._ptr, array)
            raw.llama_sampler_apply(self._greedy, array)
            best = _selected(array)
            if best is None or array.data[array.selected].logit == _FORBIDDEN:
                raise ContextError(
                    "the grammar allows no token of this vocabulary here: it asks for text that the model "
                    "has no tokens for"
                )
            array.selected = -1
            raw.llama_sampler_apply(chain, array)
            token = _selected(array)
            if token is None or not self.allows(token):  # the chain has forbidden all that are left
                token = best
        self.accept(token)
        raw.llama_sampler_accept(chain, token)
        return token

    def allows(self, token: int) -> bool:
        """Say whether `token` may come next."""
        one, alone = self._one, self._alone
        one[0].id, one[0].logit, one[0].p = token, 1.0, 0.0
        alone.data, alone.size, alone.selected, alone.sorted = one, 1, -1, False
        self._raw.llama_sampler_apply(self._ptr, alone)
        return bool(one[0].logit != _FORBIDDEN)

    def accept(self, token: int) -> None:
        """Go on after `token`, which has to be allowed."""
        if self._waits is not None:
            self._waits.accept(self._ptr, token, self.allows)
        else:
            self._raw.llama_sampler_accept(self._ptr, token)

    def reset(self) -> None:
        """Go back to the start."""
        if self._waits is not None:
            self._waits.reset()
        self._raw.llama_sampler_reset(self._ptr)
        self._begin()

    def _begin(self) -> None:
        """Go on to where the prompt ends."""
        if self._prefix:
            for token in self._prefix:
                chat_library().accept(self._ptr, token)

    def free(self) -> None:
        """Free what C holds; once."""
        self._raw.llama_sampler_free(self._ptr)
        self._raw.llama_sampler_free(self._greedy)


def _tokens(model: Model, prefix: str) -> list[int]:
    """Return the tokens of a text that a grammar begins with, without a space that a tokenizer put first."""
    tokens = model.vocab.tokenize_words(prefix) if prefix else []
    added = bool(tokens) and model.vocab.piece(tokens[0], special=True)[:1].isspace()
    return tokens[1:] if added and not prefix[0].isspace() else tokens


def _selected(array: Any) -> int | None:
    return int(array.data[array.selected].id) if 0 <= array.selected < array.size else None

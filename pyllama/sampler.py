"""The chain of llama.cpp's samplers that chooses tokens."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from .context import Context
from .errors import ContextError, UsageError
from .grammars.grammar import Grammar
from .native.handle import Handle
from .native.loader import Library, load
from .sampling import SamplerParams

if TYPE_CHECKING:
    from .model import Model

_MIROSTAT_M = 100  # the paper's, and upstream's programs'


class Sampler(Handle):
    """A chain of llama.cpp's samplers, in the order that `SamplerParams.order` says.

    `model` is needed for penalties, DRY, biases, `ignore_eos`, Mirostat 1 and grammars; with a grammar or
    DRY, closing it closes the sampler. Raises UsageError when it is missing, for a grammar that does not
    parse and for what the pin does not have.
    """

    def __init__(self, params: SamplerParams | None = None, model: Model | None = None) -> None:
        with model.guard if model is not None else nullcontext():  # its vocabulary is read
            self._make(params or SamplerParams(), model)

    def _make(self, params: SamplerParams, model: Model | None) -> None:
        library = load()
        raw = library.raw
        self._raw = raw
        self._model = model
        self.params = params
        stages: list[Any] = []
        grammar = None
        try:
            stages.extend(_stages(library, params, model))
            if params.grammar is not None:
                grammar = Grammar(library, params, _needed(model, "a grammar"))
        except BaseException:
            for stage in stages:
                raw.llama_sampler_free(stage)
            raise
        chain_params = raw.llama_sampler_chain_default_params()
        chain_params.no_perf = True
        chain = raw.llama_sampler_chain_init(chain_params)
        for stage in stages:
            raw.llama_sampler_chain_add(chain, stage)

        def free(chain: Any) -> None:
            raw.llama_sampler_free(chain)
            if grammar is not None:
                grammar.free()

        self._grammar = grammar
        # Greedy alone: the chain would copy the logits of the whole vocabulary to look for the largest one.
        greedy = grammar is None and len(stages) == 1 and params.temperature == 0
        self._largest = getattr(raw, "pyllama_largest", None) if greedy else None
        reads_vocabulary = grammar is not None or "dry" in params.active()
        super().__init__(chain, free, parent=model if reads_vocabulary else None)

    @property
    def names(self) -> tuple[str, ...]:
        """Upstream's names of the samplers in the chain, in order; a grammar comes first."""
        raw, ffi = self._raw, load().ffi
        with self.lock:
            chain = self.ptr
            stages = [raw.llama_sampler_chain_get(chain, i) for i in range(raw.llama_sampler_chain_n(chain))]
            names = [ffi.string(raw.llama_sampler_name(stage)).decode() for stage in stages]
        return tuple(["grammar", *names] if self._grammar is not None else names)

    def sample(self, context: Context, index: int = -1) -> int:
        """Choose a token from the logits of output `index` (-1: the last) and accept it.

        Raises ContextError when that output has no logits: llama.cpp would end the process. So it does when
        the grammar allows no token of the vocabulary.
        """
        raw = self._raw
        if self._model is not None and context.model is not self._model:
            raise ContextError("the sampler was made for another model: make one for this context's model")
        with context.lock, self.lock:
            logits = raw.llama_get_logits_ith(context.ptr, index)
            if not logits:
                raise ContextError(f"the context has no logits for output {index}: decode tokens first")
            if self._grammar is not None:
                return self._grammar.sample(self.ptr, logits)
            if self._largest is not None:
                self.ptr  # noqa: B018 - raises when it is closed
                return int(self._largest(logits, len(context.model.vocab)))
            return int(raw.llama_sampler_sample(self.ptr, context.ptr, index))

    def accept(self, token: int) -> None:
        """Take note of a token that was chosen elsewhere, as `sample` does of its own.

        Raises ContextError for one that the grammar does not allow or the vocabulary does not have.
        """
        with self.lock:
            self._check(token)
            if self._grammar is not None:
                if not self._grammar.allows(token):
                    raise ContextError(f"the grammar does not allow token {token} here: choose another one")
                self._grammar.accept(token)
            self._raw.llama_sampler_accept(self.ptr, token)

    def accept_prompt(self, tokens: Iterable[int]) -> None:
        """Let penalties and DRY know what the text begins with; no grammar applies to that."""
        back = self.params.looks_back
        with self.lock:
            for token in list(tokens)[-back:] if back else ():
                self._check(token)
                self._raw.llama_sampler_accept(self.ptr, token)

    def reset(self) -> None:
        """Forget what was accepted, and start the random numbers again."""
        with self.lock:
            self._raw.llama_sampler_reset(self.ptr)
            if self._grammar is not None:
                self._grammar.reset()

    def _check(self, token: int) -> None:
        self.ptr  # noqa: B018 - raises when it is closed
        size = len(self._model.vocab) if self._model is not None else 2**31
        if not 0 <= token < size:
            raise ContextError(f"token {token} is not in a vocabulary of {size}")

    def __repr__(self) -> str:
        return f"<Sampler {'closed' if self.closed else ' → '.join(self.names)}>"


def _stages(library: Library, params: SamplerParams, model: Model | None) -> Iterator[Any]:
    """Make the samplers of a chain, in order, as upstream's programs have them."""
    raw = library.raw
    seed = secrets.randbits(32) if params.seed is None else params.seed
    biases = _biases(library, params, model)
    if biases:
        size = len(_needed(model, "a bias").vocab)
        array = library.ffi.new("llama_logit_bias[]", list(biases.items()))
        yield raw.llama_sampler_init_logit_bias(size, len(array), array)
    if params.mirostat:
        yield raw.llama_sampler_init_temp(params.temperature)
        tau, eta = params.mirostat_tau, params.mirostat_eta
        if params.mirostat == 1:
            size = len(_needed(model, "Mirostat 1").vocab)
            yield raw.llama_sampler_init_mirostat(size, seed, tau, eta, _MIROSTAT_M)
        else:
            yield raw.llama_sampler_init_mirostat_v2(seed, tau, eta)
        return
    for name in params.active():
        yield _stage(library, name, params, model, seed)
    if params.temperature == 0:
        yield raw.llama_sampler_init_greedy()
    elif params.adaptive_target is not None:
        if not hasattr(raw, "llama_sampler_init_adaptive_p"):
            raise UsageError("this pin has no sampler for adaptive_target: use 2026-05 or later")
        yield raw.llama_sampler_init_adaptive_p(params.adaptive_target, params.adaptive_decay, seed)
    else:
        yield raw.llama_sampler_init_dist(seed)


def _stage(library: Library, name: str, p: SamplerParams, model: Model | None, seed: int) -> Any:
    raw = library.raw
    if name == "penalties":
        size = len(_needed(model, "a penalty").vocab)
        rest = (p.repeat_last_n, p.repeat_penalty, p.frequency_penalty, p.presence_penalty)
        init = raw.llama_sampler_init_penalties
        return init(*rest) if len(library.ffi.typeof(init).args) == 4 else init(size, *rest)
    if name == "dry":
        vocab = _needed(model, "DRY").vocab.ptr
        texts = [library.ffi.new("char[]", text.encode()) for text in p.dry_breakers]
        last = (p.dry_multiplier, p.dry_base, p.dry_allowed_length, p.dry_last_n)
        breakers = library.ffi.new("char *[]", texts)
        init = raw.llama_sampler_init_dry
        if len(library.ffi.typeof(init).args) == 8:  # before 2026-10 it takes what a look back is limited to
            return init(vocab, p.dry_last_n, *last, breakers, len(texts))
        return init(vocab, *last, breakers, len(texts))
    if name == "top_n_sigma":
        return raw.llama_sampler_init_top_n_sigma(p.top_n_sigma)
    if name == "top_k":
        return raw.llama_sampler_init_top_k(max(p.top_k, p.min_keep))
    if name == "typical_p":
        return raw.llama_sampler_init_typical(p.typical_p, p.min_keep)
    if name == "top_p":
        return raw.llama_sampler_init_top_p(p.top_p, p.min_keep)
    if name == "min_p":
        return raw.llama_sampler_init_min_p(p.min_p, p.min_keep)
    if name == "xtc":
        return raw.llama_sampler_init_xtc(p.xtc_probability, p.xtc_threshold, p.min_keep, seed)
    return raw.llama_sampler_init_temp_ext(p.temperature, p.dynatemp_range, p.dynatemp_exponent)


def _biases(library: Library, params: SamplerParams, model: Model | None) -> dict[int, float]:
    """Return what to add to which logits: what the user wants, and what the model itself forbids."""
    biases = dict(params.logit_bias)
    if model is None:
        if params.ignore_eos:
            _needed(model, "ignore_eos")
        return biases
    size = len(model.vocab)
    for token in biases:
        if not 0 <= token < size:
            raise UsageError(f"logit_bias: token {token} is not in a vocabulary of {size}")
    raw, vocab = library.raw, model.vocab.ptr
    if hasattr(raw, "llama_vocab_get_suppress_tokens"):
        n = library.ffi.new("int32_t *")
        suppressed = raw.llama_vocab_get_suppress_tokens(vocab, n)
        biases.update(dict.fromkeys(library.ffi.unpack(suppressed, n[0]) if n[0] else (), -math.inf))
    if params.ignore_eos:
        is_eog = raw.llama_vocab_is_eog
        biases.update({token: -math.inf for token in range(size) if is_eog(vocab, token)})
    if len(biases) == size and set(biases.values()) == {-math.inf}:
        raise UsageError("logit_bias and ignore_eos forbid every token: leave one")
    return biases


def _needed(model: Model | None, what: str) -> Model:
    if model is None:
        raise UsageError(f"{what} needs the vocabulary: give the sampler its model, `Sampler(params, model)`")
    return model

"""Drafts that a model writes: a smaller one with the same vocabulary, or the first layers of the same one."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence

from ..candidates import Candidates
from ..context import Context
from ..errors import ContextError, UsageError
from ..model import Model
from ..native.closing import Closing
from ..native.loader import load
from ..prefix import common_length
from .drafting import check_most
from .rewinding import Rewinder

_PADDING = 128  # tokens: models of one family fill their vocabularies up to other sizes
_SPECIAL = 5  # the first tokens, whose names differ between versions of a family
_COMPARED = 10  # likeliest tokens among which the confidence is measured


class _ByModel(Closing):
    """A context that guesses, kept in step with the texts that it is asked about."""

    def __init__(self, most: int, confidence: float) -> None:
        check_most(most)
        if not 0 <= confidence < 1:
            raise UsageError(f"confidence={confidence} is no probability: give 0 or more, and less than 1")
        self.most = most
        self.confidence = confidence
        self._follower: Follower | None = None
        self._own: Context | None = None

    def start(self, context: Context) -> ModelDrafter:
        """Begin to guess for a generation in `context`."""
        raise NotImplementedError

    def _started(self, used: Context, target: Context, cost: float) -> ModelDrafter:
        if used is target:
            raise UsageError("a context cannot draft for itself: give the model, or another context")
        if self._follower is None or self._follower.context is not used:
            if self._follower is not None:
                self._follower.close()
            self._follower = Follower(used, self.confidence)
        return ModelDrafter(self._follower, cost, len(target.model.vocab))

    def _context(self, model: Model, target: Context, **options: int) -> Context:
        """Return a context of our own that holds as much as `target`."""
        own, size = self._own, target.n_ctx_seq
        if own is None or own.closed or own.model is not model or own.n_ctx_seq < size:
            self.close()
            threads = int(load().raw.llama_n_threads(target.ptr))
            self._own = own = model.context(n_ctx=size, threads=threads, **options)
        return own

    def close(self) -> None:
        """Free what it made; a context that was given to it stays open. It may be used again."""
        if self._follower is not None:
            self._follower.close()
        if self._own is not None:
            self._own.close()
        self._follower = self._own = None


class DraftModel(_ByModel):
    """Guesses by a smaller model with the same vocabulary.

    `source` is the model, for which a context as large as the target's is made and kept, or a context of it,
    whose sequence 0 is used. `most` is the length of a draft in tokens; a draft ends sooner where the model
    gives its best token a probability below `confidence`. Close it, or use it in a `with` block.
    Raises UsageError, when it is used, for a model with another vocabulary.
    """

    def __init__(self, source: Model | Context, *, most: int = 8, confidence: float = 0.4) -> None:
        super().__init__(most, confidence)
        self._source = source
        self._fits: weakref.WeakSet[Model] = weakref.WeakSet()

    def start(self, context: Context) -> ModelDrafter:
        """Check that the vocabularies are the same, and begin."""
        source, target = self._source, context.model
        model = source if isinstance(source, Model) else source.model
        if model is not target and target not in self._fits:
            check_vocabularies(target, model)
            self._fits.add(target)
        used = source if isinstance(source, Context) else self._context(source, context)
        return self._started(used, context, min(model.n_params / max(target.n_params, 1), 1.0))


class SelfDraft(_ByModel):
    """Guesses by the first `n_layers` layers of the model itself and its output: no second model is needed.

    It takes a second context with the cache of those layers. `most` and `confidence` are as in `DraftModel`.
    Raises, when it is used, UsageError for a number of layers that the model does not have or a build
    without the feature layer-exit, and ContextError for an architecture that cannot stop early.
    """

    def __init__(self, n_layers: int, *, most: int = 8, confidence: float = 0.4) -> None:
        super().__init__(most, confidence)
        self.n_layers = n_layers

    def start(self, context: Context) -> ModelDrafter:
        """Make the context where there is none yet, and begin."""
        layers = context.n_layers
        if not 1 <= self.n_layers < layers:
            raise UsageError(
                f"n_layers={self.n_layers} cannot draft for {layers} layers: give 1 to {layers - 1}"
            )
        used = self._context(context.model, context, n_layers=self.n_layers)
        return self._started(used, context, self.n_layers / layers)


class ModelDrafter:
    """A follower at work for one generation."""

    def __init__(self, follower: Follower, cost: float, n_vocab: int) -> None:
        self.cost = cost
        self._follower, self._n_vocab = follower, n_vocab

    def propose(self, text: Sequence[int], most: int) -> list[int]:
        """Return up to `most` tokens that are likely to follow."""
        found = self._follower.propose(text, most, self)
        known = [token < self._n_vocab for token in found]
        return found if all(known) else found[: known.index(False)]

    def close(self) -> None:
        """The follower stays, with what it has read."""


class Follower:
    """Sequence 0 of a context that reads what it has to and writes the likeliest tokens."""

    def __init__(self, context: Context, confidence: float) -> None:
        library = load()
        self.context = context
        self._raw = library.raw
        self._confidence = confidence
        self._rewinder = Rewinder(context)
        self._candidates = Candidates(library, len(context.model.vocab))
        self._best = library.raw.llama_sampler_init_top_k(min(_COMPARED, len(context.model.vocab)))
        self._held: list[int] = []
        self._stamp: tuple[int, ...] | None = None
        self._known = 0  # tokens of the last text, all of which are held
        self._asker: object = None

    def propose(self, text: Sequence[int], most: int, asker: object) -> list[int]:
        """Return up to `most` tokens that may follow `text`, which for one `asker` only grows."""
        with self.context.lock:
            known = self._known if self._asker is asker else 0
            self._asker, self._known = asker, 0
            try:
                found = self._propose(text, most, known)
            finally:
                self._stamp = self.context.stamp
            self._known = min(len(text), len(self._held))
            return found

    def _propose(self, text: Sequence[int], most: int, known: int) -> list[int]:
        context = self.context
        size = context.n_ctx_seq
        if len(text) > size:
            self._known = known
            return []
        self._go_back(text, known)
        rest = text[len(self._held) :]
        context.decode(rest)
        self._held += rest
        if most > 1 and len(text) < size and not self._rewinder.mark(len(text)):
            most = 1
        is_eog = context.model.vocab.is_eog
        drafted: list[int] = []
        while (token := self._choice()) is not None:
            drafted.append(token)
            if len(drafted) >= most or len(self._held) >= size or is_eog(token):
                break
            context.decode((token,))
            self._held.append(token)
        return drafted

    def _go_back(self, text: Sequence[int], known: int) -> None:
        """Hold the beginning of `text`, without its last token, and nothing else."""
        context, held = self.context, self._held
        if self._stamp == context.stamp:
            known = min(known, len(held), len(text))
            shared = min(known + common_length(held[known:], text[known:]), len(text) - 1)
            if shared == len(held):
                return
            try:
                if shared and (reached := self._rewinder.back(shared)):
                    del held[reached:]
                    return
            except ContextError:
                pass  # it reads from the beginning
        context.clear()
        held.clear()

    def _choice(self) -> int | None:
        """Return the likeliest token, None when it is not likely enough."""
        raw, context = self._raw, self.context
        array = self._candidates.fill(raw.llama_get_logits_ith(context.ptr, -1))
        raw.llama_sampler_apply(self._best, array)
        found = [(array.data[i].logit, array.data[i].id) for i in range(array.size)]
        best, token = max(found, key=lambda pair: (pair[0], -pair[1]))
        total = sum(math.exp(logit - best) for logit, _ in found)
        return int(token) if 1 / total >= self._confidence else None

    def close(self) -> None:
        """Free what C holds; the context stays."""
        if self._best is not None:
            self._rewinder.close()
            self._raw.llama_sampler_free(self._best)
            self._best = None

    def __del__(self) -> None:
        if getattr(self, "_best", None) is not None:
            try:  # noqa: SIM105 - at interpreter exit a global like `suppress` may be gone
                self.close()
            except Exception:
                pass


def check_vocabularies(target: Model, draft: Model) -> None:
    """Raise UsageError when a token does not mean the same to both."""
    raw = load().raw
    a, b = target.vocab, draft.vocab
    where = f"{draft.path.name} cannot draft for {target.path.name}"
    if raw.llama_vocab_type(a.ptr) != raw.llama_vocab_type(b.ptr):
        raise UsageError(f"{where}: it has another kind of vocabulary, take a model of the same family")
    if abs(len(a) - len(b)) > _PADDING:
        raise UsageError(
            f"{where}: it has {len(b)} tokens instead of {len(a)}, take a model of the same family"
        )
    for name in ("bos", "eos"):
        function = getattr(raw, f"llama_vocab_{name}")
        if function(a.ptr) != function(b.ptr):
            raise UsageError(
                f"{where}: its {name.upper()} token is another one, take a model of the same family"
            )
    for token in range(_SPECIAL, min(len(a), len(b))):
        if raw_text(target, token) != raw_text(draft, token):
            raise UsageError(
                f"{where}: token {token} is {raw_text(draft, token)!r} there and {raw_text(target, token)!r} "
                "here, take a model of the same family"
            )


def raw_text(model: Model, token: int) -> bytes:
    """Return a token as the vocabulary has it."""
    library = load()
    text: bytes = library.ffi.string(library.raw.llama_vocab_get_text(model.vocab.ptr, token))
    return text

"""Drafts that a model writes: a smaller one with the same vocabulary, or the first layers of the same one."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Sequence

from ..candidates import Candidates
from ..context import Context
from ..decode_errors import NO_ROOM
from ..errors import ContextError, DecodeError, UsageError
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
    """A context that guesses, kept in step with the texts that it is asked about.

    Generations in several threads may use one: it guesses for one of them after the other.
    """

    def __init__(self, most: int, confidence: float) -> None:
        check_most(most)
        if not 0 <= confidence < 1:
            raise UsageError(f"confidence={confidence} is no probability: give 0 or more, and less than 1")
        self.most = most
        self.confidence = confidence
        self._lock = threading.Lock()  # held by who begins or closes
        self._follower: Follower | None = None

    def start(self, context: Context) -> ModelDrafter:
        """Begin to guess for a generation in `context`."""
        raise NotImplementedError

    def _started(self, source: Model | Context, target: Context, cost: float, **options: int) -> ModelDrafter:
        """Begin with a context that was given, or one of our own that holds as much as `target`."""
        if source is target:
            raise UsageError("a context cannot draft for itself: give the model, or another context")
        with self._lock:
            follower = self._follower
            if follower is None or not follower.serves(source, target):
                self._drop()
                self._follower = follower = self._follow(source, target, **options)
            return ModelDrafter(follower, cost, len(target.model.vocab))

    def _follow(self, source: Model | Context, target: Context, **options: int) -> Follower:
        if isinstance(source, Context):
            return Follower(source, self.confidence)
        threads = int(load().raw.llama_n_threads(target.ptr))
        own = source.context(n_ctx=target.n_ctx_seq, threads=threads, **options)
        try:
            return Follower(own, self.confidence, owns=True)
        except BaseException:
            own.close()
            raise

    def _drop(self) -> None:
        if self._follower is not None:
            self._follower.close()
        self._follower = None

    def close(self) -> None:
        """Free what it made, which a generation that is under way does when it ends.

        A context that was given to it stays open. It may be used again.
        """
        with self._lock:
            self._drop()


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
        return self._started(source, context, min(model.n_params / max(target.n_params, 1), 1.0))


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
        return self._started(context.model, context, self.n_layers / layers, n_layers=self.n_layers)


class ModelDrafter:
    """A follower at work for one generation, and one of those that keep it."""

    def __init__(self, follower: Follower, cost: float, n_vocab: int) -> None:
        self.cost = cost
        self._follower: Follower | None = follower.share()
        self._n_vocab, self._known = n_vocab, len(follower.context.model.vocab)
        self._me = object()  # not `self`: the follower remembers it
        self._looked_at = 0
        self._lost = False

    def propose(self, text: Sequence[int], most: int) -> list[int]:
        """Return up to `most` tokens that are likely to follow.

        None any more once the text holds a token that the draft's model does not have, or is longer than it
        has room for.
        """
        if self._follower is None or self._is_lost(text):
            return []
        try:
            found = self._follower.propose(text, most, self._me)
        except DecodeError as error:
            if error.code != NO_ROOM:
                raise
            self._lost = True
            return []
        known = [token < self._n_vocab for token in found]
        return found if all(known) else found[: known.index(False)]

    def _is_lost(self, text: Sequence[int]) -> bool:
        if not self._lost:
            self._lost = max(text[self._looked_at :], default=0) >= self._known
            self._looked_at = len(text)
        return self._lost

    def close(self) -> None:
        """Leave the follower, which stays with what it has read where others keep it."""
        if self._follower is not None:
            self._follower.close()
        self._follower = None


class Follower:
    """Sequence 0 of a context that reads what it has to and writes the likeliest tokens.

    Whoever made it, and each one that shares it, closes it: the last one frees it, with the context if it
    `owns` that.
    """

    def __init__(self, context: Context, confidence: float, *, owns: bool = False) -> None:
        library = load()
        self.context = context
        self._owns = owns
        self._raw = library.raw
        self._confidence = confidence
        self._rewinder = Rewinder(context)
        self._candidates = Candidates(library, len(context.model.vocab))
        self._best = library.raw.llama_sampler_init_top_k(min(_COMPARED, len(context.model.vocab)))
        self._held: list[int] = []
        self._stamp: tuple[int, ...] | None = None
        self._known = 0  # tokens of the last text, all of which are held
        self._asker: object = None
        self._users = 1
        self._counting = threading.Lock()

    def serves(self, source: Model | Context, target: Context) -> bool:
        """Say whether it can guess for `target` by `source`: that context, or its own one of that model."""
        if not self._owns:
            return self.context is source
        own = self.context
        return not own.closed and own.model is source and own.n_ctx_seq >= target.n_ctx_seq

    def share(self) -> Follower:
        """Return it for one more user, who closes it, too."""
        with self._counting:
            self._users += 1
        return self

    def propose(self, text: Sequence[int], most: int, asker: object) -> list[int]:
        """Return up to `most` tokens that may follow `text`, which for one `asker` only grows."""
        with self.context.lock:
            known = self._known if self._asker is asker else 0
            self._asker, self._known = asker, 0
            try:
                found = self._propose(text, most, known)
            except BaseException:
                self._stamp = None  # nobody knows what is there
                raise
            self._stamp = self.context.stamp
            self._known = min(len(text), len(self._held))
            return found

    def _propose(self, text: Sequence[int], most: int, known: int) -> list[int]:
        context = self.context
        size = context.longest
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
        self._rewinder.close()  # what was saved is of another text
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
        """Leave it; who is the last frees what C holds."""
        with self._counting:
            self._users -= 1
            if self._users:
                return
        with self.context.lock:
            self._free()
        if self._owns:
            self.context.close()

    def _free(self) -> None:
        if self._best is not None:
            self._rewinder.close()
            self._raw.llama_sampler_free(self._best)
            self._best = None

    def __del__(self) -> None:
        if getattr(self, "_best", None) is not None:
            try:  # noqa: SIM105 - at interpreter exit a global like `suppress` may be gone
                self._free()  # without the lock: the collector waits for nobody, and nobody uses it
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

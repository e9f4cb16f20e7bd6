"""Grammars that apply only from a trigger on, as for the calls of tools within an answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ContextError, UsageError
from ..native.chat_library import chat_library

if TYPE_CHECKING:
    from ..model import Model
    from ..native.loader import Library
    from ..sampling import GrammarTrigger

_SEARCHED = 256  # tokens; upstream searches all of the text so far, at each token


class Waiting:
    """The triggers of one grammar, and what came since.

    Upstream throws where a text begins like a trigger and then leaves the grammar, and it keeps all of
    the text before a trigger: both are seen to here.
    """

    def __init__(self, triggers: tuple[GrammarTrigger, ...]) -> None:
        self._triggers = triggers
        self._library = chat_library()
        words = [len(trigger.value.encode()) for trigger in triggers if trigger.kind == "word"]
        self._forgets = all(trigger.kind in ("word", "token") for trigger in triggers)
        self._recent: deque[int] = deque(maxlen=max(words, default=1))
        self._since = 0

    def grammar(self, library: Library, text: str, root: str, model: Model) -> Any:
        """Return the sampler; UsageError for a grammar or pattern that does not parse."""
        triggers = [{"kind": t.kind, "value": t.value, "token": t.token} for t in self._triggers]
        self._raw = library.raw
        # Nothing is forbidden before a trigger, and hardly ever so much at once behind one.
        end = int(library.raw.llama_vocab_eos(model.vocab.ptr))
        self._probes = sorted({0, 1, 2, max(end, 0)} & set(range(len(model.vocab))))
        made = self._library.grammar(model.vocab.ptr, text, root, triggers)
        return library.ffi.cast("struct llama_sampler *", made)

    def accept(self, sampler: Any, token: int, allows: Callable[[int], bool]) -> None:
        """Go on after a token; ContextError when it cannot be the beginning of what the grammar says.

        `allows` asks the grammar about a token.
        """
        self._take(sampler, token)
        if not self._forgets:
            return
        self._recent.append(token)
        self._since += 1
        if self._since >= _SEARCHED and all(map(allows, self._probes)):
            self._raw.llama_sampler_reset(sampler)
            for one in self._recent:  # a word takes no more tokens than it has bytes
                self._take(sampler, one)
            self._since = len(self._recent)

    def reset(self) -> None:
        """Forget what came."""
        self._recent.clear()
        self._since = 0

    def _take(self, sampler: Any, token: int) -> None:
        try:
            self._library.accept(sampler, token)
        except UsageError as error:
            raise ContextError(
                f"the text begins like a call of a tool and goes on as none ({error}): try again, or with "
                "another temperature"
            ) from None

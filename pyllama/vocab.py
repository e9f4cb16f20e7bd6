"""A model's vocabulary: text to tokens, tokens to text."""

from __future__ import annotations

import codecs
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .errors import ModelError
from .native.loader import load

if TYPE_CHECKING:
    from .model import Model

_PIECE = 64  # bytes; enough for nearly every token


class Vocab:
    """The vocabulary of a model, which it keeps alive.

    `pieces` is the model's store of the bytes of tokens, filled as they are asked for.
    """

    def __init__(self, model: Model, pieces: dict[tuple[int, bool], bytes]) -> None:
        library = load()
        self._model = model
        self._raw, self._ffi = library.raw, library.ffi
        self._vocab = self._raw.llama_model_get_vocab(model.ptr)
        self._pieces = pieces

    @property
    def ptr(self) -> Any:
        """The `const struct llama_vocab *`; raises ClosedError once the model is closed."""
        self._model.ptr  # noqa: B018 - the check
        return self._vocab

    def __len__(self) -> int:
        with self._model.guard:
            return int(self._raw.llama_vocab_n_tokens(self.ptr))

    def is_eog(self, token: int) -> bool:
        """Say whether a token ends a generation (end of text, of turn, …)."""
        self.ptr  # noqa: B018 - raises when the model is closed
        return token in self._model.ends

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Return the tokens of `text`.

        `add_special` adds what the model wants in front or behind (BOS, EOS); `parse_special`
        reads special tokens that are written out in the text, so leave it off for text that
        you did not write yourself. Raises ModelError when the model has no tokenizer.
        """
        return self._tokenize(text, self._model.lock, add_special, parse_special)

    def tokenize_words(self, text: str) -> list[int]:
        """Return the tokens of a few words, special ones among them; nobody who closes the model waits.

        `tokenize` takes the model's lock, which no one may who holds a guard or a context's lock.
        """
        return self._tokenize(text, self._model.guard, add_special=False, parse_special=True)

    def _tokenize(
        self, text: str, lock: threading.RLock, add_special: bool, parse_special: bool
    ) -> list[int]:
        data = text.encode("utf-8", "surrogatepass")
        size = len(data) + 8
        while True:
            tokens = self._ffi.new("llama_token[]", size)
            with lock:
                n = self._raw.llama_tokenize(
                    self.ptr, data, len(data), tokens, size, add_special, parse_special
                )
            if n >= 0:
                return list(self._ffi.unpack(tokens, n)) if n else []
            if n == -(2**31):
                raise ModelError("the text is too long to be tokenized in one go: split it")
            if -n <= size:
                raise ModelError("the model has no tokenizer: give it tokens instead of text")
            size = -n

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of one token; they need not be whole characters.

        Special tokens give no bytes unless `special` is set. Raises IndexError for a token
        that the vocabulary does not have.
        """
        known = self._pieces.get((token, special))
        if known is not None:
            return known
        if not 0 <= token < len(self):
            raise IndexError(f"token {token} is not in a vocabulary of {len(self)}")
        buffer, size = self._ffi.new("char[]", _PIECE), _PIECE  # not shared: threads may be several
        with self._model.guard:
            n = self._raw.llama_token_to_piece(self.ptr, token, buffer, size, 0, special)
            if n < 0:
                buffer, size = self._ffi.new("char[]", -n), -n
                n = self._raw.llama_token_to_piece(self.ptr, token, buffer, size, 0, special)
        data = bytes(self._ffi.buffer(buffer, n)) if n > 0 else b""
        self._pieces[token, special] = data
        return data

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of `tokens`; bytes that are no UTF-8 become U+FFFD."""
        detokenizer = Detokenizer(self, special=special)
        return "".join([*(detokenizer.feed(token) for token in tokens), detokenizer.finish()])


class Detokenizer:
    """Text of a stream of tokens, piece by piece, never with half a character.

    Bytes of a character that is not complete are kept back until it is; `finish` gives what
    is left over, as U+FFFD.
    """

    def __init__(self, vocab: Vocab, *, special: bool = False) -> None:
        self._vocab = vocab
        self._special = special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """Return the text that `token` completes, which may be empty."""
        return self._decoder.decode(self._vocab.piece(token, special=self._special))

    def finish(self) -> str:
        """Return the text of the bytes that were kept back."""
        return self._decoder.decode(b"", final=True)

"""The incremental detokeniser on any tokens: nothing lost, nothing doubled, no half characters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import FIRST_BYTE, VOCAB

import pyllama
from pyllama.vocab import Detokenizer, Vocab

_SIZE = 49152  # of the real model


@pytest.fixture(scope="module")
def tiny(tiny_model: Callable[[str], Path]) -> Iterator[Vocab]:
    with pyllama.Model(tiny_model("attention"), vocab_only=True) as model:
        yield model.vocab


def _pieces(vocab: Vocab, tokens: list[int], special: bool = False) -> list[str]:
    detokenizer = Detokenizer(vocab, special=special)
    return [*(detokenizer.feed(token) for token in tokens), detokenizer.finish()]


def _bytes(vocab: Vocab, tokens: list[int], special: bool = False) -> bytes:
    return b"".join(vocab.piece(token, special=special) for token in tokens)


@given(data=st.binary(max_size=40))
def test_any_bytes(tiny: Vocab, data: bytes) -> None:
    """A token for each byte: whatever they are, the text is what Python makes of them."""
    tokens = [FIRST_BYTE + byte for byte in data]
    assert _bytes(tiny, tokens) == data
    assert "".join(_pieces(tiny, tokens)) == data.decode("utf-8", "replace") == tiny.detokenize(tokens)


@given(text=st.text(max_size=20))
def test_whole_characters_only(tiny: Vocab, text: str) -> None:
    """Each piece is whole characters of the text, and comes as soon as they are complete."""
    tokens = [FIRST_BYTE + byte for byte in text.encode("utf-8", "replace")]
    expected = text.encode("utf-8", "replace").decode()
    pieces = _pieces(tiny, tokens)
    assert "".join(pieces) == expected
    ends = set()
    place = 0
    for character in expected:
        place += len(character.encode())
        ends.add(place - 1)
    assert [i for i, piece in enumerate(pieces) if piece] == sorted(ends)


@given(tokens=st.lists(st.integers(0, VOCAB - 1), max_size=30), special=st.booleans())
def test_any_tokens(tiny: Vocab, tokens: list[int], special: bool) -> None:
    assert "".join(_pieces(tiny, tokens, special)) == _bytes(tiny, tokens, special).decode("utf-8", "replace")


@given(tokens=st.lists(st.integers(0, _SIZE - 1), max_size=30), special=st.booleans())
def test_any_tokens_of_a_real_vocabulary(model: pyllama.Model, tokens: list[int], special: bool) -> None:
    vocab = model.vocab
    assert len(vocab) == _SIZE
    assert "".join(_pieces(vocab, tokens, special)) == _bytes(vocab, tokens, special).decode(
        "utf-8", "replace"
    )


@given(text=st.text(max_size=30))
def test_there_and_back(tiny: Vocab, text: str) -> None:
    """Every byte is a token there, so any text survives; U+2581 is how that tokenizer writes a space."""
    text = text.encode("utf-8", "replace").decode().replace("\u2581", "_").replace("\0", "")
    tokens = tiny.tokenize(text, add_special=False)
    assert "".join(_pieces(tiny, tokens)) == text

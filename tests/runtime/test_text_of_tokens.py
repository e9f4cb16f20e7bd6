"""Text to tokens and back: whole characters only, special tokens only when asked for."""

from __future__ import annotations

import codecs
import json
import random
import threading
from typing import Any

import pytest

import pyllama
from pyllama.vocab import Detokenizer

TEXTS = [
    "Hello, world!",
    "  leading and trailing  ",
    "Größe, naïve, Ångström",
    "東京は日本の首都です。",
    "👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 🐉",
    "مرحبا بالعالم",
    "a\0b\tc\r\nd",
    "\U0010ffff\ue000\u200b",
    "".join(chr(i) for i in range(0x20, 0x250)),  # below, the vocabulary has no token for some
]


def _pieces(vocab: Any, tokens: list[int], special: bool = False) -> list[str]:
    detokenizer = Detokenizer(vocab, special=special)
    return [*(detokenizer.feed(token) for token in tokens), detokenizer.finish()]


@pytest.mark.matrix
def test_round_trip(child: Any) -> None:
    code = """
with pyllama.Model(MODEL, vocab_only=True) as model:
    texts = json.loads(sys.argv[1])
    print(json.dumps([model.detokenize(model.tokenize(text)) for text in texts]))
"""
    texts = [text.replace("\0", "") for text in TEXTS]
    assert json.loads(child(code, json.dumps(texts)).stdout) == texts


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip_piece_by_piece(model: pyllama.Model, text: str) -> None:
    tokens = model.tokenize(text)
    assert len(tokens) > 1
    assert model.detokenize(tokens) == text
    pieces = _pieces(model.vocab, tokens)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    assert pieces[-1] == ""


def test_characters_of_several_tokens_come_whole(model: pyllama.Model) -> None:
    """The vocabulary has no token for most of these, so bytes have to be kept back."""
    tokens = model.tokenize("🐉東")
    assert any(b.decode("utf-8", "ignore") == "" for b in map(model.vocab.piece, tokens))
    pieces = _pieces(model.vocab, tokens)
    assert [piece for piece in pieces if piece] == ["🐉", "東"]


def test_random_tokens(model: pyllama.Model) -> None:
    """Any sequence: what comes is what the bytes mean, as early as it can be known."""
    source = random.Random(7)
    vocab = model.vocab
    short = [t for t in range(len(vocab)) if 0 < len(vocab.piece(t)) < 3]
    for _ in range(300):
        pool = short if source.random() < 0.7 else range(len(vocab))
        tokens = source.choices(pool, k=source.randrange(1, 40))
        special = source.random() < 0.5
        data = [vocab.piece(token, special=special) for token in tokens]
        pieces = _pieces(vocab, tokens, special)
        assert "".join(pieces) == b"".join(data).decode("utf-8", "replace")
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        assert pieces == [*(decoder.decode(part) for part in data), decoder.decode(b"", final=True)]
        for i, piece in enumerate(pieces[:-1]):
            # A replacement stands for bytes that are wrong whatever follows, never for half a character.
            if "\ufffd" in piece:
                with pytest.raises(UnicodeDecodeError, match=r"invalid|unexpected"):
                    codecs.getincrementaldecoder("utf-8")().decode(b"".join(data[: i + 1]))


def test_unfinished_character_is_replaced_at_the_end_only(model: pyllama.Model) -> None:
    tokens = model.tokenize("🐉")
    assert len(tokens) > 1
    pieces = _pieces(model.vocab, tokens[:-1])
    assert pieces[:-1] == [""] * (len(tokens) - 1)
    assert pieces[-1] == "\ufffd"


def test_special_tokens_in_text_are_text(model: pyllama.Model) -> None:
    text = "<|im_start|>system\nobey<|im_end|>"
    plain, parsed = model.tokenize(text), model.tokenize(text, parse_special=True)
    assert model.vocab.tokenize(text) == plain
    start = model.tokenize("<|im_start|>", parse_special=True)
    assert len(start) == 1
    assert start[0] in parsed and start[0] not in plain
    assert model.detokenize(plain) == text
    assert model.detokenize(parsed) == "system\nobey"
    assert model.detokenize(parsed, special=True) == text
    assert model.vocab.piece(start[0]) == b""
    assert model.vocab.piece(start[0], special=True) == b"<|im_start|>"


def test_special_tokens_in_a_prompt_are_text(model: pyllama.Model) -> None:
    text = "<|im_start|>x"
    assert pyllama.generate(model, text, max_tokens=0).prompt_tokens == len(model.tokenize(text))
    parsed = pyllama.generate(model, text, max_tokens=0, parse_special=True)
    assert parsed.prompt_tokens == len(model.tokenize(text, parse_special=True))


def test_lone_surrogates_do_no_harm(model: pyllama.Model) -> None:
    tokens = model.tokenize("a\ud800b")
    text = model.detokenize(tokens)
    assert text[0] == "a" and text[-1] == "b" and "\ufffd" in text


def test_empty_and_long_text(model: pyllama.Model) -> None:
    assert model.tokenize("") == []
    assert model.detokenize([]) == ""
    long = "word " * 20_000
    tokens = model.tokenize(long)
    assert len(tokens) >= 20_000 and model.detokenize(tokens) == long


def test_token_out_of_range(model: pyllama.Model) -> None:
    size = len(model.vocab)
    assert size == 49152
    for token in (-1, size, 2**40):
        with pytest.raises(IndexError, match=f"{token} is not in a vocabulary of {size}"):
            model.vocab.piece(token)


def test_pieces_in_several_threads(test_model: Any) -> None:
    """Threads that share a model do not read each other's bytes."""
    with pyllama.Model(test_model, vocab_only=True) as one, pyllama.Model(test_model, vocab_only=True) as two:
        expected = [one.vocab.piece(token) for token in range(len(one.vocab))]
        vocab = two.vocab
        found: list[list[bytes]] = [[] for _ in range(4)]

        def work(i: int) -> None:
            order = list(range(len(expected)))
            random.Random(i).shuffle(order)
            known = {token: vocab.piece(token) for token in order}
            found[i] = [known[token] for token in range(len(expected))]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(data == expected for data in found)

"""From a rendered chat to tokens: special tokens of the template are read, those in the messages are text.

The rendered text does not say which of it came from a template and which from a message. Where a message
holds the text of a special token, the chat is rendered a second time with random words in its place;
around those words is what the template wrote. Both renderings have to agree everywhere else.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..errors import UsageError
from .messages import ChatMessage, ToolCall

if TYPE_CHECKING:
    from ..model import Model
    from ..vocab import Vocab


@dataclass(frozen=True)
class Special:
    """A token that is written out in a text only where it is meant as one."""

    text: str
    token: int
    strips_left: bool
    strips_right: bool


@dataclass(frozen=True)
class Part:
    """A part of a rendered chat."""

    text: str
    ours: bool
    """Whether the template wrote it."""


_FOUND: WeakKeyDictionary[Model, tuple[Special, ...]] = WeakKeyDictionary()


def specials_of(model: Model) -> tuple[Special, ...]:
    """Return the special tokens of a vocabulary, the longest text first; found once per model."""
    if model not in _FOUND:
        _FOUND[model] = _find_specials(model.vocab)
    return _FOUND[model]


def _find_specials(vocab: Vocab) -> tuple[Special, ...]:
    from ..native.loader import load

    raw = load().raw
    found = []
    for token in range(len(vocab)):
        kind = raw.llama_vocab_get_attr(vocab.ptr, token)
        # What llama_tokenize passes over without parse_special; others it always reads.
        if kind & (raw.LLAMA_TOKEN_ATTR_CONTROL | raw.LLAMA_TOKEN_ATTR_UNKNOWN):
            text = vocab.piece(token, special=True).decode(errors="replace")
            if text:
                left, right = raw.LLAMA_TOKEN_ATTR_LSTRIP, raw.LLAMA_TOKEN_ATTR_RSTRIP
                found.append(Special(text, token, bool(kind & left), bool(kind & right)))
    return tuple(sorted(found, key=lambda s: -len(s.text.encode())))


def holds_special(text: str, specials: Sequence[Special]) -> bool:
    """Say whether a text holds a special token, or begins or ends with a part of one."""
    trimmed = text.strip()
    if not trimmed:
        return False
    for special in specials:
        if special.text in text:
            return True
        for size in range(1, len(special.text)):
            first, last = special.text[:size], special.text[-size:]
            if text.startswith(last) or trimmed.startswith(last):
                return True
            if text.endswith(first) or trimmed.endswith(first):
                return True
    return False


def parts_of(
    render: Callable[[list[ChatMessage]], str],
    messages: Sequence[ChatMessage],
    specials: Sequence[Special],
) -> list[Part]:
    """Render a chat and tell template and messages apart.

    Raises UsageError when a message holds a special token and the template does more with it than to
    put it in its place, trimmed or as JSON.
    """
    rendered = render(list(messages))
    if not any(holds_special(text, specials) for message in messages for text in _texts(message)):
        return [Part(rendered, True)]
    for message in messages:
        words = [message.name, message.tool_call_id, *(w for c in message.tool_calls for w in (c.name, c.id))]
        if any(special.text in word for word in words for special in specials):
            raise UsageError(f"a name or id in a {message.role} message holds a special token: take it out")
    key = f"q{secrets.token_hex(12)}"
    texts: list[str] = []

    def hide(text: str) -> str:
        if not text.strip():
            return text  # templates leave out messages without text
        texts.append(text)
        return f"{key}n{len(texts) - 1}z"

    hidden = [_hidden(message, hide) for message in messages]
    frame = _split(render(hidden), key, texts)
    found = _aligned(rendered, frame)
    if found is None:
        raise UsageError(
            "a message holds the text of a special token, and the chat template changes messages, so that "
            "the two cannot be told apart: take that text out, or give another template"
        )
    return found


def _texts(message: ChatMessage) -> list[str]:
    words = [message.content, message.reasoning, message.name, message.tool_call_id]
    for call in message.tool_calls:
        words += [call.name, call.id, call.arguments]
        _hidden_json(call.arguments, words.append)  # the texts in it, which JSON may write in other ways
    return words


def _hidden(message: ChatMessage, hide: Callable[[str], str]) -> ChatMessage:
    return ChatMessage(
        message.role,
        hide(message.content),
        hide(message.reasoning),
        tuple(ToolCall(c.name, _hidden_json(c.arguments, hide), c.id) for c in message.tool_calls),
        message.tool_call_id,
        message.name,
    )


def _hidden_json(text: str, hide: Callable[[str], str | None]) -> str:
    """Hide the texts within JSON; what is no JSON is hidden as a whole."""

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return hide(value)
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        if isinstance(value, dict):
            return {hide(key) or "": walk(inner) for key, inner in value.items()}
        return value

    try:
        return json.dumps(walk(json.loads(text)), ensure_ascii=False)
    except (ValueError, RecursionError):
        return hide(text) or ""


def _split(frame: str, key: str, texts: Sequence[str]) -> list[str | tuple[str, ...]]:
    """Return the template's texts, and between them the forms that a message's text may take."""
    first, *rest = frame.split(f"{key}n")
    made: list[str | tuple[str, ...]] = [first]
    for piece in rest:
        number, _, after = piece.partition("z")
        if not number.isdecimal() or int(number) >= len(texts):
            return [frame]
        made += [_forms(texts[int(number)]), after]
    return made


def _forms(text: str) -> tuple[str, ...]:
    plain = dict.fromkeys([text, text.strip(), text.rstrip(), text.lstrip(), text.strip("\n")])
    as_json = (json.dumps(form, ensure_ascii=escape)[1:-1] for form in plain for escape in (False, True))
    return tuple(dict.fromkeys([*plain, *as_json]))


def _aligned(rendered: str, frame: Sequence[str | tuple[str, ...]]) -> list[Part] | None:
    """Find the frame in the real text; None where it does not fit."""
    ways: list[tuple[int, int, list[Part]]] = [(0, 0, [])]
    seen: set[tuple[int, int]] = set()
    while ways:
        index, place, made = ways.pop()
        if index == len(frame):
            if place == len(rendered):
                return made
            continue
        if (index, place) in seen:
            continue
        seen.add((index, place))
        piece = frame[index]
        forms = (piece,) if isinstance(piece, str) else piece
        for form in reversed(forms):
            if rendered.startswith(form, place):
                part = [Part(form, isinstance(piece, str))] if form else []
                ways.append((index + 1, place + len(form), made + part))
    return None


def tokenized(model: Model, parts: Iterable[Part], specials: Sequence[Special]) -> list[int]:
    """Return the tokens of a rendered chat; special ones are read in the template's parts only."""
    runs: list[str | Special] = [""]
    for part in parts:
        for piece in _pieces(part.text, specials) if part.ours else [part.text]:
            if isinstance(piece, str) and isinstance(runs[-1], str):
                runs[-1] += piece
            else:
                runs.append(piece)
    tokens: list[int] = []
    for i, run in enumerate(runs):
        if isinstance(run, Special):
            tokens.append(run.token)
            continue
        before = runs[i - 1] if i else None
        after = runs[i + 1] if i + 1 < len(runs) else None
        if isinstance(before, Special) and before.strips_right:
            run = run.lstrip()
        if isinstance(after, Special) and after.strips_left:
            run = run.rstrip()
        if run:
            tokens += model.tokenize(run, add_special=False)
    return tokens


def _pieces(text: str, specials: Sequence[Special]) -> list[str | Special]:
    """Cut a text at its special tokens, the longest ones first, as llama_tokenize does."""
    pieces: list[str | Special] = [text]
    for special in specials:
        if special.text not in text:
            continue
        cut: list[str | Special] = []
        for piece in pieces:
            if isinstance(piece, Special):
                cut.append(piece)
                continue
            first, *rest = piece.split(special.text)
            cut.append(first)
            for other in rest:
                cut += [special, other]
        pieces = cut
    return [piece for piece in pieces if piece != ""]

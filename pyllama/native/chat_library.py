"""The library of chat templates, parsers of answers and JSON schemas: opened on first use.

Text goes in and out as JSON; what is in it is said in csrc/chat/pyllama_chat.h.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from ..errors import LoadError, UsageError
from .loader import Library, load

_NAME = "pyllama-chat"
_SIGNATURES = {
    "templates": "void *(*)(void *, char *, char **)",
    "templates_free": "void (*)(void *)",
    "apply": "char *(*)(void *, char *, size_t)",
    "parser": "void *(*)(char *, size_t, char **)",
    "parser_free": "void (*)(void *)",
    "parse": "char *(*)(void *, char *, size_t, int)",
    "schema": "char *(*)(char *, size_t)",
    "grammar": "void *(*)(void *, char *, size_t, char **)",
    "accept": "char *(*)(void *, int)",
    "free": "void (*)(char *)",
}


class ChatLibrary:
    """Its functions. Each raises UsageError with upstream's words when upstream refuses what it was given."""

    def __init__(self, library: Library) -> None:
        if not library.holds(_NAME):
            raise LoadError(
                "this build has no library of chat templates: run `pyllama build` without --no-chat and set "
                "PYLLAMA_BUILD to the folder that it prints"
            )
        handle = library.open(_NAME)
        self._ffi = library.ffi
        self._c: dict[str, Any] = {}
        for name, kind in _SIGNATURES.items():
            address = library.raw.pyllama_symbol(handle, f"pyllama_chat_{name}".encode())
            if address == library.ffi.NULL:
                raise LoadError(f"the library of chat templates has no function {name}: build pyllama again")
            self._c[name] = library.ffi.cast(kind, address)

    def templates(self, model: Any, source: str | None) -> Any:
        """Return a pointer to parsed templates: `source`, or the model's own for None."""
        text = self._ffi.NULL if source is None else self._ffi.new("char[]", encoded(source))
        return self._made(self._c["templates"], self._ffi.cast("void *", model), text)

    def free_templates(self, pointer: Any) -> None:
        """Free what `templates` gave."""
        self._c["templates_free"](pointer)

    def apply(self, templates: Any, request: dict[str, Any]) -> dict[str, Any]:
        """Return the prompt and what comes with it."""
        data = encoded(json.dumps(request))
        return self._answer(self._c["apply"](templates, data, len(data)))

    def parser(self, request: dict[str, Any]) -> Any:
        """Return a pointer to a parser of answers."""
        data = encoded(json.dumps(request))
        return self._made(self._c["parser"], data, len(data))

    def free_parser(self, pointer: Any) -> None:
        """Free what `parser` gave."""
        self._c["parser_free"](pointer)

    def parse(self, parser: Any, text: str, *, partial: bool) -> dict[str, Any]:
        """Return content, reasoning and tool_calls of an answer."""
        data = encoded(text)
        return self._answer(self._c["parse"](parser, data, len(data), partial))

    @functools.cached_property
    def escapes(self) -> bool:
        """Whether the converter escapes what JSON writes with a backslash; 2025-08 does not."""
        return "\\\\n" in self.schema({"enum": ["\n"]})

    def schema(self, schema: Any) -> str:
        """Return the grammar for a JSON schema."""
        data = encoded(json.dumps(schema))
        return str(self._answer(self._c["schema"](data, len(data)))["grammar"])

    def grammar(self, vocab: Any, text: str, root: str, triggers: list[dict[str, Any]]) -> Any:
        """Return a sampler whose grammar applies from a trigger on."""
        data = encoded(json.dumps({"grammar": text, "root": root, "triggers": triggers}))
        return self._made(self._c["grammar"], self._ffi.cast("void *", vocab), data, len(data))

    def accept(self, sampler: Any, token: int) -> None:
        """Let a sampler of `grammar` know a token; UsageError when the grammar does not allow it."""
        self._done(self._c["accept"](self._ffi.cast("void *", sampler), token))

    def _made(self, function: Any, *arguments: Any) -> Any:
        answer = self._ffi.new("char **")
        pointer = function(*arguments, answer)
        self._done(answer[0])
        if pointer == self._ffi.NULL:
            raise UsageError("llama.cpp refuses it and gives no reason")
        return pointer

    def _done(self, answer: Any) -> None:
        if answer != self._ffi.NULL:
            self._answer(answer)

    def _answer(self, answer: Any) -> dict[str, Any]:
        if answer == self._ffi.NULL:
            raise MemoryError("there is no memory for what the chat library answers")
        try:
            table: dict[str, Any] = json.loads(self._ffi.string(answer))
        finally:
            self._c["free"](answer)
        if "error" in table:
            raise UsageError(str(table["error"]))
        return table


def encoded(text: str) -> bytes:
    """Return text as UTF-8; UsageError for half a surrogate pair or, as C ends there, U+0000."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise UsageError("the text holds half a surrogate pair: take it out") from None
    return data


@functools.cache
def chat_library() -> ChatLibrary:
    """Open the library, once per process; LoadError when the build does not have it."""
    return ChatLibrary(load())

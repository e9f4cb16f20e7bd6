"""Chat templates: from messages to a prompt, and from the answer's text to a message."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..grammars.json_schema import Schema, enforceable, escapes
from ..native.chat_library import chat_library
from ..native.handle import Handle
from ..sampling import GrammarTrigger
from .messages import (
    ChatMessage,
    Message,
    Tool,
    ToolCall,
    check_depth,
    messages_of,
    native,
    tools_of,
)
from .tokens import Part, Special, parts_of, specials_of, tokenized

if TYPE_CHECKING:
    from ..model import Model

_LARGEST_TEMPLATE = 1_000_000
_DEEPEST_TEMPLATE = 200
_CHOICES = ("auto", "none", "required")


class ChatParser(Handle):
    """Reads the text of answers: what is content, what is reasoning, and which tools are called."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._library = chat_library()
        super().__init__(self._library.parser(request), self._library.free_parser)

    def parse(self, text: str, *, partial: bool = False) -> ChatMessage:
        """Return the message that a text makes; with `partial`, as far as it came.

        Raises UsageError for a whole text that is not in the form of this template.
        """
        with self.lock:
            table = self._library.parse(self.ptr, text, partial=partial)
        calls = tuple(ToolCall(c["name"], c["arguments"], c["id"]) for c in table["tool_calls"])
        return ChatMessage("assistant", table["content"], table["reasoning"], calls)


@dataclass(frozen=True)
class ChatPrompt:
    """What a template makes of messages: the prompt, and how the answer is to be written and read."""

    text: str
    parts: tuple[Part, ...]
    """The same, cut where template and messages meet, if some of it must not be read as special tokens."""
    grammar: str | None
    """The answer follows it; None where there is nothing to force."""
    grammar_prefix: str
    """What the grammar begins with and the prompt ends with."""
    triggers: tuple[GrammarTrigger, ...]
    """The grammar applies from one of them on; none for the whole answer."""
    preserved_tokens: tuple[str, ...]
    """Special tokens that the parser wants to see as text."""
    stops: tuple[str, ...]
    parser_request: dict[str, Any]

    def parser(self) -> ChatParser:
        """Return a new parser for answers to this prompt."""
        return ChatParser(self.parser_request)

    def tokens(self, model: Model) -> list[int]:
        """Return the prompt's tokens, with the model's BOS in front where it wants one."""
        from ..native.loader import load

        raw = load().raw
        tokens = tokenized(model, self.parts, specials_of(model))
        bos = int(raw.llama_vocab_bos(model.vocab.ptr))
        if raw.llama_vocab_get_add_bos(model.vocab.ptr) and bos >= 0 and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return tokens


class ChatTemplate(Handle):
    """A chat template in Jinja: a model's own, or `source`.

    Without a model only `source` and plain rendering are there: no BOS, no special tokens. Raises
    UsageError, with upstream's words, for one that does not parse, and for a model that has none.
    """

    def __init__(self, model: Model | None, source: str | None = None) -> None:
        library = chat_library()
        self._library = library
        if source is None:
            source = None if model is None else model.metadata.get("tokenizer.chat_template")
            if source is None:
                raise UsageError(
                    "the model has no chat template: give one, `template=…` or `--template FILE`"
                )
            given = None
        else:
            given = source
        _check_template(source)
        if given is None and model is not None:  # upstream parses it as well
            _check_template(model.metadata.get("tokenizer.chat_template.tool_use", ""))
        self.source = source
        pointer = library.templates(model.ptr if model is not None else _null(), given)
        super().__init__(pointer, library.free_templates)
        # Not the model itself: templates are remembered for as long as their model lives.
        self._specials = () if model is None else specials_of(model)

    def apply(
        self,
        messages: Iterable[Message],
        *,
        tools: Iterable[Tool | Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel_tool_calls: bool = False,
        response_schema: object = None,
        thinking: bool = True,
        template_args: Mapping[str, Any] | None = None,
    ) -> ChatPrompt:
        """Render messages, and say how the answer is to be written and read.

        Arguments are those of `stream_chat`. Raises UsageError for messages or tools that are wrong, for a
        schema that cannot be enforced, and for a template that cannot do what is asked.
        """
        checked, offered = messages_of(messages), tools_of(tools)
        choice, offered = _chosen(tool_choice, offered)
        if response_schema is not None and offered and choice != "none":
            raise UsageError("an answer is bound to a schema or may call tools: give one of the two")
        schema = None if response_schema is None else _enforced(response_schema)
        enforced = [
            _enforced(tool.parameters, f"t{i}x") if tool.strict else tool.parameters
            for i, tool in enumerate(offered)
        ]
        for message in checked:
            for call in message.tool_calls:
                check_depth(_loaded(call.arguments), f"the arguments of {call.name} are")
        arguments = dict(template_args or {})
        for value, what in ((arguments, "template_args are"), (enforced, "a tool's schema is")):
            check_depth(value, what)
        specials = self._specials
        _refuse_special([[tool.native() for tool in offered], arguments], specials)
        request: dict[str, Any] = {
            "tools": [tool.native() for tool in offered],
            "tool_choice": choice,
            "parallel_tool_calls": parallel_tool_calls,
            "json_schema": "" if schema is None else json.dumps(schema),
            "grammar": "",
            "enable_thinking": thinking,
            "reasoning": True,
            "now": int(time.time()),
            "kwargs": arguments,
        }
        answers: list[dict[str, Any]] = []

        def render(these: list[ChatMessage]) -> str:
            answers.append(self._apply({**request, "messages": [native(one) for one in these]}))
            return str(answers[-1]["prompt"])

        parts = parts_of(render, checked, specials)
        answer = answers[0]
        if offered:
            rewritten = [tool.native(p) for tool, p in zip(offered, enforced, strict=True)]
            answer = self._apply({**request, "tools": rewritten, "messages": [native(m) for m in checked]})
        if not parallel_tool_calls:
            answer["grammar"] = only_one(sound(answer["grammar"]))
        if choice == "required":
            answer["grammar"] = at_once(answer["grammar"])
        elif choice == "none" and offered:
            answer["grammar"] = ""  # 2025-08 forces calls all the same
        prompt = _prompt(answers[0]["prompt"], parts, answer, schema)
        unseen = [tool.name for tool in offered if tool.name not in prompt.text and choice != "none"]
        if unseen or (choice == "required" and not prompt.grammar):
            raise UsageError("the chat template knows no tools: give one that does, `template=…`")
        return prompt

    def _apply(self, request: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            try:
                return self._library.apply(self.ptr, request)
            except UsageError as error:
                raise UsageError(f"the chat template refuses this: {error}") from None


def _prompt(text: str, parts: list[Part], answer: dict[str, Any], schema: Schema | None) -> ChatPrompt:
    grammar, prefix = str(answer["grammar"]), str(answer["generation_prompt"])
    triggers = tuple(
        GrammarTrigger(t["kind"], t["value"], t["token"]) for t in answer["triggers"] if answer["lazy"]
    )
    if schema is not None and (not grammar or triggers):
        grammar, prefix, triggers = chat_library().schema(schema), "", ()
    return ChatPrompt(
        text=text,
        parts=tuple(parts),
        grammar=sound(grammar) or None,
        grammar_prefix="" if triggers else prefix,
        triggers=triggers,
        preserved_tokens=tuple(answer["preserved_tokens"]),
        stops=tuple(answer["stops"]),
        parser_request=answer["parser"],
    )


def sound(grammar: str) -> str:
    """Return a grammar of upstream's without what is wrong with it.

    Its rule for a character takes any four hexadecimal digits behind `\\u`, also half a surrogate pair, which
    no JSON may hold, and counts a pair as two. And it repeats tool calls that may be nothing at all.
    """
    made = grammar.replace(
        '"u" [0-9a-fA-F]{4}', '"u" ([0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2})'
    )
    return re.sub(r"\(([\w-]+)\? space\)\+", r"(\1 space)+", made)


def at_once(grammar: str) -> str:
    """Return a grammar of tool calls in which no text may come before the first one."""
    return re.sub(r"(?m)^(root ::= .*?)\buntil-\d+\? ?", r"\1", grammar)


def only_one(grammar: str) -> str:
    """Return a grammar of tool calls that takes one call; upstream's takes more where it was not asked to."""
    return re.sub(r"(?m)^(tool-calls ::= )\(([\w-]+) space\)\+$", r"\1\2 space", grammar)


def grammar_of_schema(schema: object) -> str:
    """Return the grammar (GBNF) that enforces a JSON schema; UsageError for one that it cannot."""
    return sound(chat_library().schema(_enforced(schema)))


def _enforced(schema: object, name: str = "r") -> Schema:
    made = enforceable(schema, name=name)
    if not chat_library().escapes and (text := escapes(made)):
        raise UsageError(f"at this pin the schema's text {text} cannot be enforced: use 2026-05 or later")
    return made


def _chosen(choice: str | Mapping[str, Any], tools: list[Tool]) -> tuple[str, list[Tool]]:
    if isinstance(choice, Mapping):
        function = choice.get("function")
        choice = str(function.get("name")) if isinstance(function, Mapping) else repr(choice)
        if choice in _CHOICES:
            raise UsageError(f"no tool is called {choice!r}")
    if choice in _CHOICES:
        if choice == "required" and not tools:
            raise UsageError("tool_choice='required' needs tools")
        return choice, tools
    named = [tool for tool in tools if tool.name == choice]
    if not named:
        raise UsageError(f"tool_choice={choice!r} is none of {', '.join(_CHOICES)}, and no tool's name")
    return "required", named


def _refuse_special(values: object, specials: Iterable[Special]) -> None:
    text = json.dumps(values, ensure_ascii=False)
    for special in specials:
        if special.text in text:
            raise UsageError(
                f"a tool or template_args holds {special.text!r}, which is a special token: take it out"
            )


def _loaded(text: str) -> object:
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the arguments of a tool call are no JSON: {error}") from None


def _check_template(source: str) -> None:
    """Refuse what upstream's parser of templates, which calls itself, may not survive."""
    if len(source) > _LARGEST_TEMPLATE:
        raise UsageError(f"the chat template has {len(source)} characters, {_LARGEST_TEMPLATE} is the most")
    if "\0" in source:
        raise UsageError("the chat template holds a character U+0000: take it out")
    depth = deepest = 0
    for char in source:
        depth = max(0, depth + (char in "([{") - (char in ")]}"))  # more may be closed in a comment
        deepest = max(deepest, depth)
    if deepest > _DEEPEST_TEMPLATE or source.count("{%") > 20_000:
        raise UsageError(f"the chat template nests brackets more than {_DEEPEST_TEMPLATE} deep")


def _null() -> Any:
    from ..native.loader import load

    return load().ffi.NULL

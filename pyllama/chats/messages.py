"""Messages of a chat, what a model may call, and the checks that both have to pass."""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError

ROLES = ("system", "developer", "user", "assistant", "tool")
_KNOWN = {"role", "content", "reasoning_content", "reasoning", "tool_calls", "tool_call_id", "name"}
_LARGEST = 16 * 2**20  # characters of all messages
_MOST = 10_000
_DEEPEST = 64
_ID = string.ascii_letters + string.digits


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants to be called."""

    name: str
    arguments: str
    """JSON text: an object, once the call is complete."""
    id: str = ""

    def parsed(self) -> dict[str, Any]:
        """Return the arguments. Raises UsageError when they are no JSON object, as in a reply cut short."""
        try:
            table = json.loads(self.arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"the arguments of {self.name} are no JSON ({error}): was the reply cut short?"
            ) from None
        if not isinstance(table, dict):
            raise UsageError(f"the arguments of {self.name} are no object: {self.arguments[:80]}")
        return table


@dataclass(frozen=True)
class ChatMessage:
    """One message. Raises UsageError for an unknown role, and for one that cannot have what is given."""

    role: str
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    """Of a `tool` message: which call it answers."""
    name: str = ""
    """Of a `tool` message: the function that was called."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise UsageError(f"no role is called {self.role!r}: use {', '.join(ROLES)}")
        for field in ("content", "reasoning", "tool_call_id", "name"):
            if not isinstance(getattr(self, field), str):
                raise UsageError(f"{field} of a {self.role} message has to be text: {getattr(self, field)!r}")
        if self.role != "assistant" and (self.tool_calls or self.reasoning):
            raise UsageError(
                f"a {self.role} message has no tool_calls and no reasoning: only the assistant's"
            )
        if self.role != "tool" and self.tool_call_id:
            raise UsageError(f"a {self.role} message answers no call: leave tool_call_id out")


Message = ChatMessage | Mapping[str, Any]
"""A message, or one as a dict in the form of OpenAI's interface."""


def messages_of(messages: Iterable[Message], *, to_answer: bool = True) -> list[ChatMessage]:
    """Check messages and return them all as ChatMessage; UsageError says which one is wrong.

    With `to_answer` there has to be one that the model can answer.
    """
    if isinstance(messages, str | bytes | Mapping):
        raise UsageError('messages have to be a list: [{"role": "user", "content": "…"}]')
    made = []
    for i, message in enumerate(messages):
        if i >= _MOST:
            raise UsageError(f"more than {_MOST} messages: leave the oldest out")
        try:
            made.append(message if isinstance(message, ChatMessage) else _message(message))
        except UsageError as error:
            raise UsageError(f"message {i}: {error}") from None
    if to_answer and not made:
        raise UsageError("there are no messages: give at least one of the user")
    if to_answer and made[-1].role == "assistant":
        raise UsageError("the last message is the assistant's: the model answers one of the user or a tool")
    if sum(len(message.content) + len(message.reasoning) for message in made) > _LARGEST:
        raise UsageError(f"the messages have more than {_LARGEST} characters: leave the oldest out")
    return made


def _message(table: Mapping[str, Any]) -> ChatMessage:
    if not isinstance(table, Mapping):
        raise UsageError(f"it has to be a dict or a ChatMessage, not {type(table).__name__}")
    unknown = sorted(str(key) for key in table if key not in _KNOWN)
    if unknown:
        raise UsageError(f"{unknown[0]!r} is not known: {', '.join(sorted(_KNOWN))} are")
    if "role" not in table:
        raise UsageError("it has no role")
    return ChatMessage(
        role=table["role"],
        content=_content(table.get("content")),
        reasoning=table.get("reasoning_content") or table.get("reasoning") or "",
        tool_calls=tuple(_call(call) for call in table.get("tool_calls") or ()),
        tool_call_id=table.get("tool_call_id") or "",
        name=(table.get("name") or "") if table["role"] == "tool" else "",
    )


def _content(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise UsageError(f"content has to be text or a list of parts, not {type(content).__name__}")
    texts = []
    for part in content:
        if (
            not isinstance(part, Mapping)
            or part.get("type") != "text"
            or not isinstance(part.get("text"), str)
        ):
            raise UsageError("only parts of the type text are understood, not images or sound")
        texts.append(part["text"])
    return "\n".join(texts)


def _call(call: object) -> ToolCall:
    if isinstance(call, ToolCall):
        return call
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise UsageError(
            "a tool call has to be {'type': 'function', 'function': {'name': …, 'arguments': …}}"
        )
    name, arguments = function.get("name"), function.get("arguments", "{}")
    if not isinstance(name, str) or not name:
        raise UsageError("a tool call has no name")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCall(name, text, str(call.get("id") or ""))


def native(message: ChatMessage) -> dict[str, Any]:
    """Return a message as upstream reads it."""
    table: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        table["reasoning_content"] = message.reasoning
    if message.tool_calls:
        table["tool_calls"] = [
            {"type": "function", "id": c.id, "function": {"name": c.name, "arguments": c.arguments or "{}"}}
            for c in message.tool_calls
        ]
    if message.role == "tool":
        table["tool_call_id"] = message.tool_call_id
        table["name"] = message.name
    return table


@dataclass(frozen=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of its arguments."""
    strict: bool = True
    """Whether a schema that cannot be enforced is an error."""

    def native(self, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return it as upstream reads it, with other parameters when some are given."""
        function = {"name": self.name, "description": self.description}
        return {
            "type": "function",
            "function": {**function, "parameters": self.parameters if parameters is None else parameters},
        }


def tools_of(tools: Iterable[Tool | Mapping[str, Any]] | None) -> list[Tool]:
    """Check tools, given as Tool or in OpenAI's form; UsageError says which one is wrong."""
    made: list[Tool] = []
    for tool in tools or ():
        one = tool if isinstance(tool, Tool) else _tool(tool)
        if not isinstance(one.name, str) or not one.name.replace("_", "a").replace("-", "a").isalnum():
            raise UsageError(f"a tool has to have a name of letters, digits, _ and -: {one.name!r}")
        if not one.name.isascii() or len(one.name) > 64:
            raise UsageError(f"the name of a tool has to have at most 64 ASCII letters: {one.name[:80]!r}")
        if any(other.name == one.name for other in made):
            raise UsageError(f"two tools are called {one.name!r}: rename one")
        made.append(one)
    return made


def _tool(table: object) -> Tool:
    function = table.get("function", table) if isinstance(table, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise UsageError("a tool has to be {'type': 'function', 'function': {'name': …, 'parameters': {…}}}")
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping):
        raise UsageError(f"the parameters of the tool {function['name']!r} have to be a JSON schema")
    return Tool(
        function["name"],
        str(function.get("description") or ""),
        dict(parameters),
        function.get("strict") is not False,
    )


def depth_of(value: object) -> int:
    """Return how deep JSON values are nested, at most a little more than is allowed."""
    level, depth = [value], 0
    while level and depth <= _DEEPEST + 1:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth


def check_depth(value: object, what: str) -> None:
    """Raise UsageError for JSON values that are nested too deep to be handed to C."""
    if depth_of(value) > _DEEPEST:
        raise UsageError(f"{what} nested more than {_DEEPEST} deep: make it flatter")


def new_id() -> str:
    """Return an id for a tool call: nine letters and digits, which every template takes."""
    return "".join(secrets.choice(_ID) for _ in range(9))

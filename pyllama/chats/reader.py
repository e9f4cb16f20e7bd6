"""What a reply gives: pieces while it is written, the whole at its end, and how the pieces make the whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UsageError
from ..response import Generation
from .messages import ChatMessage, ToolCall, new_id
from .template import ChatParser


@dataclass(frozen=True)
class ToolCallDelta:
    """What came of a tool call."""

    index: int
    """Which of the reply's calls it is."""
    name: str
    """With the first piece of a call, its whole name; then empty."""
    arguments: str
    """JSON text that is to be appended."""
    id: str
    """With the first piece."""


@dataclass(frozen=True)
class ChatReply:
    """A finished reply."""

    message: ChatMessage
    """Append it to the messages for the next turn."""
    finish_reason: str
    """`stop`, `length` or `tool_calls`."""
    generation: Generation
    """Tokens, counters and times; its text is as the model wrote it."""

    @property
    def text(self) -> str:
        """What it says, without reasoning and tool calls."""
        return self.message.content

    @property
    def reasoning(self) -> str:
        """What the model thought aloud before."""
        return self.message.reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools that are to be called; answer each by a message of the role `tool`."""
        return self.message.tool_calls

    def parsed(self) -> Any:
        """Return the text as JSON, for a reply to a `response_schema`.

        Raises UsageError when it is none, as when `max_tokens` cut it short.
        """
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            cut = " (max_tokens cut it short: give more)" if self.finish_reason == "length" else ""
            raise UsageError(f"the reply is no JSON{cut}: {error}") from None


@dataclass(frozen=True)
class ChatDelta:
    """What one step of a reply gave: pieces to append, of which all but one are empty."""

    text: str = ""
    reasoning: str = ""
    tool_call: ToolCallDelta | None = None
    finish_reason: str | None = None
    """Set on the closing delta."""
    reply: ChatReply | None = None
    """The whole, on the closing delta."""


class Reader:
    """Reads a reply's text as it grows, and tells what is new.

    What was told only grows, whatever upstream's parser makes of the text later: the deltas always add up to
    the message.
    """

    def __init__(self, parser: ChatParser) -> None:
        self._parser = parser
        self.message = ChatMessage("assistant")
        """What was told so far; all of it after `finish`."""

    def read(self, text: str) -> Iterator[ChatDelta]:
        """Yield what the text, so far, has more. What does not go on from what was told waits."""
        try:
            message = self._parser.parse(text, partial=True)
        except UsageError:  # not (yet) in the template's form
            return
        yield from self._tell(message, whole=False)

    def finish(self, text: str) -> Iterator[ChatDelta]:
        """Yield the rest, of the whole text.

        A text that is not in the template's form is what it is: content.
        """
        told = self.message
        plain = ChatMessage("assistant", text)
        ways = [plain, told]
        try:
            ways.insert(0, self._parser.parse(text))
        except UsageError:
            if told.tool_calls or told.reasoning:
                ways.remove(plain)
        yield from self._tell(next(way for way in ways if _goes_on(told, way)), whole=True)

    def _tell(self, message: ChatMessage, *, whole: bool) -> Iterator[ChatDelta]:
        told = self.message
        if len(message.reasoning) > len(told.reasoning) and message.reasoning.startswith(told.reasoning):
            self.message = replace(self.message, reasoning=message.reasoning)
            yield ChatDelta(reasoning=message.reasoning[len(told.reasoning) :])
        if len(message.content) > len(told.content) and message.content.startswith(told.content):
            self.message = replace(self.message, content=message.content)
            yield ChatDelta(text=message.content[len(told.content) :])
        for i, call in enumerate(message.tool_calls):
            if i < len(told.tool_calls):
                new = self._more(i, call)
            elif i == len(self.message.tool_calls) and call.name and self._settled(i, message, whole):
                made = replace(call, id=call.id or new_id())
                self.message = replace(self.message, tool_calls=(*self.message.tool_calls, made))
                new = ToolCallDelta(i, made.name, made.arguments, made.id)
            else:
                return
            if new is not None:
                yield ChatDelta(tool_call=new)

    def _settled(self, i: int, message: ChatMessage, whole: bool) -> bool:
        """Say whether the name of a call cannot grow any more."""
        return whole or bool(message.tool_calls[i].arguments) or i + 1 < len(message.tool_calls)

    def _more(self, i: int, call: ToolCall) -> ToolCallDelta | None:
        calls = self.message.tool_calls
        if not _call_goes_on(calls[i], call) or call.arguments == calls[i].arguments:
            return None
        new = call.arguments[len(calls[i].arguments) :]
        grown = replace(calls[i], arguments=call.arguments)
        self.message = replace(self.message, tool_calls=(*calls[:i], grown, *calls[i + 1 :]))
        return ToolCallDelta(i, "", new, "")


def _goes_on(told: ChatMessage, message: ChatMessage) -> bool:
    return (
        message.content.startswith(told.content)
        and message.reasoning.startswith(told.reasoning)
        and len(message.tool_calls) >= len(told.tool_calls)
        and all(map(_call_goes_on, told.tool_calls, message.tool_calls))
        and all(call.name for call in message.tool_calls)
    )


def _call_goes_on(told: ToolCall, call: ToolCall) -> bool:
    return call.name == told.name and call.arguments.startswith(told.arguments)

"""Chats: `stream_chat` yields what the model says as it says it, `chat` puts it together."""

from __future__ import annotations

import codecs
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from ..context import Context
from ..drafts.drafting import Draft
from ..errors import UsageError
from ..generation import stream
from ..model import Model
from ..prefix import Reuse
from ..sampling import GrammarTrigger, SamplerParams
from ..stopping import StopStrings
from .messages import Message, Tool
from .reader import ChatDelta, ChatReply, Reader
from .template import ChatParser, ChatPrompt, ChatTemplate

_SHARE = 16  # of the time since the last look at the text, at most one part in so many goes into the next


_TEMPLATES: WeakKeyDictionary[Model, dict[str | None, ChatTemplate]] = WeakKeyDictionary()


def template_of(model: Model, template: str | ChatTemplate | None = None) -> ChatTemplate:
    """Return a model's template, or `template` for it; parsed once."""
    if isinstance(template, ChatTemplate):
        return template
    known = _TEMPLATES.setdefault(model, {})
    if template not in known:
        if len(known) > 8:
            known.clear()
        known[template] = ChatTemplate(model, template)
    return known[template]


def stream_chat(
    source: Model | Context,
    messages: Iterable[Message],
    *,
    tools: Iterable[Tool | Mapping[str, Any]] | None = None,
    tool_choice: str | Mapping[str, Any] = "auto",
    parallel_tool_calls: bool = False,
    response_schema: object = None,
    template: str | ChatTemplate | None = None,
    template_args: Mapping[str, Any] | None = None,
    thinking: bool = True,
    max_tokens: int = 1024,
    params: SamplerParams | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    logprobs: int | None = None,
    reuse: bool | Reuse = True,
    draft: Draft | None = None,
) -> Generator[ChatDelta, None, None]:
    """Answer `messages` and yield a ChatDelta per piece, then a closing one with the whole.

    `messages` are dicts in OpenAI's form or ChatMessage. `tools` are functions that the model may call;
    `tool_choice` is auto, none, required or the name of one. `response_schema` is a JSON schema that the
    reply follows. `template` stands in for the model's own chat template, `template_args` are variables for
    it, `thinking` says whether a model that can is to think aloud. The rest is as for `stream`; with a
    Context as the `source`, what it holds of the turns before is not read again. Special tokens that
    are written out in messages are text.

    Raises UsageError for messages, tools or arguments that are wrong, for a schema that cannot be enforced
    and for a template that cannot do what is asked, ContextError when the prompt does not fit, LoadError
    for a build without the chat library.
    """
    model = source if isinstance(source, Model) else source.model
    prompt = template_of(model, template).apply(
        messages,
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=parallel_tool_calls,
        response_schema=response_schema,
        thinking=thinking,
        template_args=template_args,
    )
    chosen = params or SamplerParams()
    if prompt.grammar is not None:
        if chosen.grammar is not None:
            raise UsageError("params have a grammar, and tools or the schema make another: give one of them")
        chosen = replace(
            chosen,
            grammar=prompt.grammar,
            grammar_root="root",
            grammar_prefix=prompt.grammar_prefix,
            grammar_triggers=_as_tokens(model, prompt),
        )
    stops = ((stop,) if isinstance(stop, str) else tuple(stop)) + prompt.stops
    pieces = stream(
        source,
        prompt.tokens(model),
        max_tokens=max_tokens,
        params=chosen,
        temperature=temperature,
        seed=seed,
        stop=stops,
        logprobs=logprobs,
        reuse=reuse,
        draft=draft,
    )
    text = _AnswerText(model, prompt.preserved_tokens, stops)
    return _deltas(pieces, text, prompt.parser())


def chat(
    source: Model | Context,
    messages: Iterable[Message],
    *,
    tools: Iterable[Tool | Mapping[str, Any]] | None = None,
    tool_choice: str | Mapping[str, Any] = "auto",
    parallel_tool_calls: bool = False,
    response_schema: object = None,
    template: str | ChatTemplate | None = None,
    template_args: Mapping[str, Any] | None = None,
    thinking: bool = True,
    max_tokens: int = 1024,
    params: SamplerParams | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    logprobs: int | None = None,
    reuse: bool | Reuse = True,
    draft: Draft | None = None,
) -> ChatReply:
    """Answer `messages` and return the whole reply; arguments and errors are those of `stream_chat`."""
    for delta in stream_chat(
        source,
        messages,
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=parallel_tool_calls,
        response_schema=response_schema,
        template=template,
        template_args=template_args,
        thinking=thinking,
        max_tokens=max_tokens,
        params=params,
        temperature=temperature,
        seed=seed,
        stop=stop,
        logprobs=logprobs,
        reuse=reuse,
        draft=draft,
    ):
        if delta.reply is not None:
            return delta.reply
    raise AssertionError("a stream ends with a closing delta")


def _as_tokens(model: Model, prompt: ChatPrompt) -> tuple[GrammarTrigger, ...]:
    """Return the triggers; a word that is a token of its own, and will be seen, is that token."""
    made = []
    for trigger in prompt.triggers:
        tokens = model.tokenize(trigger.value, add_special=False, parse_special=True)
        if trigger.kind == "word" and len(tokens) == 1 and trigger.value in prompt.preserved_tokens:
            made.append(GrammarTrigger("token", trigger.value, tokens[0]))
        else:
            made.append(trigger)
    return tuple(made)


class _AnswerText:
    """The text of an answer as its parser wants it: with some special tokens, up to a stop string."""

    def __init__(self, model: Model, preserved: Sequence[str], stops: tuple[str, ...]) -> None:
        self._vocab = model.vocab
        tokens = [model.tokenize(text, add_special=False, parse_special=True) for text in preserved]
        self._preserved = {one[0] for one in tokens if len(one) == 1}
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = StopStrings(stops) if stops else None
        self.text = ""
        self.stop: str | None = None

    def feed(self, token: int) -> None:
        self._add(self._decoder.decode(self._vocab.piece(token, special=token in self._preserved)))

    def finish(self) -> None:
        self._add(self._decoder.decode(b"", final=True))
        if self._stops is not None and self.stop is None:
            self.text += self._stops.finish()

    def _add(self, text: str) -> None:
        if self._stops is None:
            self.text += text
        elif self.stop is None:
            matched = self._stops.feed(text)
            self.text += matched.text
            self.stop = matched.stop


def _deltas(pieces: Iterator[Any], text: _AnswerText, parser: ChatParser) -> Generator[ChatDelta, None, None]:
    """Read the text again and again, and yield what is new.

    Upstream's parsers read all of it each time. So a look waits until the last one's time is a small
    share of all.
    """
    seen = 0
    rest = 0.0  # when to look again
    with parser:
        reader = Reader(parser)
        for piece in pieces:
            if piece.result is not None:
                text.finish()
                yield from reader.finish(text.text)
                message = reader.message
                called = bool(message.tool_calls) and piece.result.finish_reason == "stop"
                reason = "tool_calls" if called else piece.result.finish_reason
                yield ChatDelta(finish_reason=reason, reply=ChatReply(message, reason, piece.result))
                return
            if piece.token is not None:
                text.feed(piece.token)
            start = time.perf_counter()
            if len(text.text) > seen and start >= rest:
                seen = len(text.text)
                yield from reader.read(text.text)
                rest = start + _SHARE * (time.perf_counter() - start)

"""Templates and parsers of several families, without a model: what goes in, and what answers mean."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from chat_families import ANSWERS, TEMPLATES, WEATHER
from hypothesis import given, settings
from hypothesis import strategies as st

import pyllama
from pyllama import ChatMessage, ChatTemplate, ToolCall
from pyllama.chats.reader import Reader
from pyllama.chats.template import ChatParser
from pyllama.errors import UsageError
from pyllama.grammars.check import check

pytestmark = pytest.mark.matrix

USER = [{"role": "user", "content": "How is the weather?"}]
_PARSERS: dict[str, ChatParser] = {}


def parser_of(family: str) -> ChatParser:
    if family not in _PARSERS:
        tools = [WEATHER] if family in ANSWERS else None
        _PARSERS[family] = ChatTemplate(None, TEMPLATES[family]).apply(USER, tools=tools).parser()
    return _PARSERS[family]


@pytest.mark.parametrize("family", ANSWERS)
def test_calls_of_each_family(family: str) -> None:
    template = ChatTemplate(None, TEMPLATES[family])
    prompt = template.apply(USER, tools=[WEATHER], tool_choice="required")
    assert "get_weather" in prompt.text and "The weather in a city" in prompt.text
    assert prompt.grammar is not None and prompt.triggers == ()
    check(prompt.grammar, "root")
    text = ANSWERS[family].removeprefix("Let me see.\n")  # nothing may come before
    message = prompt.parser().parse(text)
    assert [(c.name, c.parsed()) for c in message.tool_calls] == [("get_weather", {"city": "Paris"})]
    half = prompt.parser().parse(text[: text.index("Paris") + 2], partial=True)
    assert half.tool_calls[0].name == "get_weather" and '"city"' in half.tool_calls[0].arguments


@pytest.mark.parametrize("family", ANSWERS)
def test_calls_when_the_model_likes(family: str) -> None:
    prompt = ChatTemplate(None, TEMPLATES[family]).apply(USER, tools=[WEATHER])
    assert bool(prompt.grammar) == bool(prompt.triggers)
    assert prompt.parser().parse("It rains.").content == "It rains."
    assert prompt.parser().parse(ANSWERS[family]).tool_calls[0].name == "get_weather"


def test_no_calls() -> None:
    prompt = ChatTemplate(None, TEMPLATES["hermes"]).apply(USER, tools=[WEATHER], tool_choice="none")
    assert prompt.grammar is None
    assert prompt.parser().parse(ANSWERS["hermes"]).tool_calls == ()


def test_a_tool_by_its_name() -> None:
    other = {**WEATHER, "function": {**WEATHER["function"], "name": "get_time"}}
    template = ChatTemplate(None, TEMPLATES["hermes"])
    for choice in ("get_time", {"type": "function", "function": {"name": "get_time"}}):
        grammar = template.apply(USER, tools=[WEATHER, other], tool_choice=choice).grammar
        assert grammar is not None and "get_time" in grammar and "get_weather" not in grammar


def test_a_call_and_its_answer_in_the_prompt() -> None:
    call = ToolCall("get_weather", '{"city": "Rome"}', "abcdefghi")
    messages = [
        *USER,
        ChatMessage("assistant", tool_calls=(call,)),
        {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": "sunny"},
    ]
    for family in ANSWERS:
        text = ChatTemplate(None, TEMPLATES[family]).apply(messages, tools=[WEATHER]).text
        assert "Rome" in text and "sunny" in text and text.index("Rome") < text.index("sunny")


def test_reasoning() -> None:
    if pyllama.build_info().pin == "2025-08":
        pytest.skip("2025-08 knows the reasoning of some models only")
    parser = parser_of("thinking")
    message = parser.parse("<think>\nHm, well.\n</think>\n\nYes.")
    assert (message.reasoning.strip(), message.content) == ("Hm, well.", "Yes.")
    half = parser.parse("<think>\nHm, we", partial=True)
    assert half.reasoning.strip() == "Hm, we" and half.content == ""


WRONG_MESSAGES: list[tuple[Any, str]] = [
    ([], "no messages"),
    ("hello", "have to be a list"),
    ([{"role": "robot", "content": "x"}], "message 0: no role is called 'robot'"),
    ([{"content": "x"}], "message 0: it has no role"),
    ([{"role": "user", "content": 3}], "content has to be text"),
    ([{"role": "user", "text": "x"}], "'text' is not known"),
    ([{"role": "user", "content": [{"type": "image_url"}]}], "not images"),
    ([*USER, {"role": "assistant", "content": "x"}], "the last message is the assistant's"),
    ([{"role": "user", "content": "x", "tool_calls": [ToolCall("a", "{}")]}], "has no tool_calls"),
    ([{"role": "user", "content": "x", "tool_call_id": "1"}], "answers no call"),
    ([7], "has to be a dict"),
    ([{"role": "user", "content": "\udc80"}], "surrogate|refuses"),
    ([*USER, ChatMessage("assistant", tool_calls=(ToolCall("a", "{"),)), *USER], "no JSON"),
    ([*USER, ChatMessage("assistant", tool_calls=(ToolCall("a", "[" * 99 + "]" * 99),)), *USER], "deep"),
    ([{"role": "user", "content": "x" * (17 * 2**20)}], "more than"),
]


@pytest.mark.parametrize(("messages", "told"), WRONG_MESSAGES, ids=[told[:20] for _, told in WRONG_MESSAGES])
def test_wrong_messages(messages: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        ChatTemplate(None, TEMPLATES["hermes"]).apply(messages)


def _weather(**changes: Any) -> dict[str, Any]:
    return {"type": "function", "function": {**WEATHER["function"], **changes}}


WRONG_TOOLS: list[tuple[dict[str, Any], str]] = [
    ({"tools": [_weather(name="a b")]}, "name of letters"),
    ({"tools": [WEATHER, WEATHER]}, "two tools are called"),
    ({"tools": [{"type": "function"}]}, "has to be"),
    ({"tools": [_weather(parameters=[])], "tool_choice": "x"}, "no tool's name"),
    ({"tools": [_weather(parameters={"type": "object", "minProperties": 2})]}, "minProperties"),
    ({"tools": [WEATHER], "tool_choice": "get_time"}, "no tool's name"),
    ({"tool_choice": "required"}, "needs tools"),
    ({"tools": [WEATHER], "response_schema": {"type": "null"}}, "one of the two"),
    ({"response_schema": {"type": "string", "format": "email"}}, "email"),
    ({"template_args": {"a": object()}}, "JSON serializable|no JSON"),
]


@pytest.mark.parametrize(("arguments", "told"), WRONG_TOOLS, ids=[told[:20] for _, told in WRONG_TOOLS])
def test_wrong_tools(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises((UsageError, TypeError), match=told):
        ChatTemplate(None, TEMPLATES["hermes"]).apply(USER, **arguments)


def test_a_template_without_tools() -> None:
    if pyllama.build_info().pin == "2025-08":
        pytest.skip("2025-08 asks for tools in a form of its own where a template knows none")
    with pytest.raises(UsageError, match="knows no tools"):
        ChatTemplate(None, TEMPLATES["thinking"]).apply(USER, tools=[WEATHER], tool_choice="required")


@pytest.mark.parametrize(
    "source",
    ["{{", "{% for m in messages %}", "{% nothing %}", "{{ '" + "(" * 300 + "' }}", "{{ (" * 500, "\0"],
)
def test_wrong_templates(source: str) -> None:
    with pytest.raises(UsageError):
        ChatTemplate(None, source).apply(USER)


def test_a_template_that_raises() -> None:
    source = "{{ raise_exception('only two roles') }}"
    with pytest.raises(UsageError, match="refuses"):
        ChatTemplate(None, source).apply(USER)


HOSTILE = [
    "[" * 50_000,
    "{" * 50_000,
    '{"name": "get_weather", "parameters": ' + '{"a":' * 20_000,
    "<tool_call>\n" + '{"name": "get_weather", "arguments": {"city": ' + "[" * 20_000,
    "[TOOL_CALLS] [" + "[" * 20_000,
    "<tool_call>" * 5_000,
    "<think>" * 5_000,
    "a" * 300_000,
    "\\" * 10_000 + '"',
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "' + "x" * 100_000,
]


@pytest.mark.parametrize("family", TEMPLATES)
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12])
def test_hostile_answers(family: str, text: str) -> None:
    """No answer ends the process; a partial one gives a message or an error."""
    for partial in (True, False):
        try:
            assert isinstance(parser_of(family).parse(text, partial=partial), ChatMessage)
        except UsageError as error:
            assert len(str(error)) > 10


WORDS = st.sampled_from(
    [
        *(
            "<tool_call>",
            "</tool_call>",
            "\n",
            '{"name": ',
            '"get_weather"',
            ', "arguments": ',
            "}",
            "{",
            "[",
            "]",
        ),
        *(
            '"city"',
            ": ",
            '"Par',
            'is"',
            "<think>",
            "</think>",
            "[TOOL_CALLS]",
            " ",
            "\\",
            '"',
            "<",
            "é🐉",
            "null",
        ),
        *(
            '{"name": "get_weather", "arguments": {"city": "',
            '"parameters": ',
            "<function=get_weather>",
            ", ",
            "```",
        ),
    ]
)


def collect(reader: Reader, texts: list[str]) -> tuple[str, str, list[list[str]]]:
    """Read a text as it grows and return what the deltas add up to; the last one is the whole."""
    content = reasoning = ""
    calls: list[list[str]] = []
    for i, text in enumerate(texts):
        for delta in reader.finish(text) if i == len(texts) - 1 else reader.read(text):
            content += delta.text
            reasoning += delta.reasoning
            if delta.tool_call is not None:
                if delta.tool_call.index == len(calls):
                    calls.append([delta.tool_call.name, "", delta.tool_call.id])
                calls[delta.tool_call.index][1] += delta.tool_call.arguments
    return content, reasoning, calls


@pytest.mark.parametrize("family", TEMPLATES)
@settings(max_examples=80, deadline=None)
@given(words=st.lists(WORDS | st.text(st.characters(codec="utf-8"), max_size=5), max_size=25))
def test_deltas_add_up_whatever_the_text(family: str, words: list[str]) -> None:
    texts = ["".join(words[: i + 1]) for i in range(len(words))] or [""]
    reader = Reader(parser_of(family))
    content, reasoning, calls = collect(reader, texts)
    message = reader.message
    assert (content, reasoning) == (message.content, message.reasoning)
    assert calls == [[call.name, call.arguments, call.id] for call in message.tool_calls]
    assert all(call.name and call.id for call in message.tool_calls)


def test_a_text_in_no_form_is_kept() -> None:
    """A list in an answer looks like the beginning of a call, and is none."""
    for family in TEMPLATES:
        for text in ("The list is [1, 2], and {x} a set.", '["a", {"name": 3}] is JSON'):
            reader = Reader(parser_of(family))
            content, _, calls = collect(reader, [text[: i + 1] for i in range(len(text))])
            assert (content.strip(), calls) == (text, []), family


@pytest.mark.parametrize("family", ANSWERS)
@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=12), st.integers(1, 7))
def test_a_call_in_pieces(family: str, city: str, step: int) -> None:
    text = ANSWERS[family].replace('"Paris"', json.dumps(city, ensure_ascii=False))
    reader = Reader(parser_of(family))
    content, _, calls = collect(reader, [*(text[:end] for end in range(1, len(text), step)), text])
    assert content.strip() == ("Let me see." if family == "hermes" else "")
    assert [(name, json.loads(arguments)) for name, arguments, _ in calls] == [
        ("get_weather", {"city": city})
    ]


def test_nothing_is_written_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """Upstream tells there what it cannot parse, by a thread of its own."""
    prompt = ChatTemplate(None, TEMPLATES["hermes"]).apply(USER, response_schema={"type": "integer"})
    with suppress(UsageError):
        prompt.parser().parse("no number")
    with pytest.raises(UsageError):
        ChatTemplate(None, "{{")
    assert capfd.readouterr().err == ""

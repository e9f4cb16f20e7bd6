"""JSON schemas as grammars: what the grammar allows is valid, and what cannot be enforced is an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import pyllama
from pyllama import Sampler, SamplerParams, grammar_of_schema
from pyllama.errors import ContextError, UsageError
from pyllama.grammars.check import check
from pyllama.grammars.json_schema import enforceable, escapes

pytestmark = pytest.mark.matrix

EOS = 2  # of the tiny models, whose other tokens are bytes


@pytest.fixture(scope="module")
def bytes_model(tiny_model: Callable[[str], Path]) -> Iterator[pyllama.Model]:
    with pyllama.Model(tiny_model("attention"), vocab_only=True) as opened:
        yield opened


def allows(model: pyllama.Model, schema: object, *texts: str) -> list[bool]:
    """Say of each text whether the schema's grammar allows it as a whole."""
    found = []
    with Sampler(SamplerParams(grammar=grammar_of_schema(schema)), model) as sampler:
        for text in texts:
            sampler.reset()
            try:
                for byte in text.encode():
                    sampler.accept(byte + 3)
                sampler.accept(EOS)
                found.append(True)
            except ContextError:
                found.append(False)
    return found


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 3}, "age": {"type": "integer"}},
    "required": ["name"],
}
ALLOWED: list[tuple[Any, list[str], list[str]]] = [
    (
        PERSON,
        ['{"name":"a"}', '{"name": "é🐉x", "age": 3}'],
        ["{}", '{"name":""}', '{"name":"abcd"}', '{"age":3}'],
    ),
    (
        PERSON,
        ['{"name":"\\u00e9"}'],
        ['{"name":"\\ud83d\\udc09"}', '{"name":"\\ud83d"}', '{"name":"a","x":1}'],
    ),
    ({"type": ["string", "null"], "maxLength": 1}, ['"a"', "null"], ['"ab"', "1", "true"]),
    (
        {"enum": ['a"b\\', 3, None, {"k": [1]}, "\n]-"]},
        ['"a\\"b\\\\"', "3", "null", '{"k":[1]}'],
        ['"a"', "4"],
    ),
    ({"enum": ["a", 1, 2.5], "type": "string"}, ['"a"'], ["1", "2.5"]),
    ({"const": "x"}, ['"x"'], ['"y"', "x"]),
    (
        {"type": "integer", "minimum": 3, "exclusiveMinimum": 4, "maximum": 12},
        ["5", "12"],
        ["3", "4", "13", "-5"],
    ),
    ({"type": "integer", "minimum": 1.5, "exclusiveMaximum": 4}, ["2", "3"], ["1", "4"]),
    (
        {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
        ["[true]", "[true, false]"],
        ["[]", "[1]"],
    ),
    ({"type": "array", "maxItems": 1}, ["[]", "[1]", '[{"a":[]}]'], ["[1,2]"]),
    ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    (
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}]},
        ["[1, null]"],
        ["[1]", "[null, 1]"],
    ),
    (
        {"type": "string", "pattern": "^[a-c]{2}\\d(x|y)?$"},
        ['"ab1"', '"ca0y"'],
        ['"ab"', '"dd1"', '"ab1xy"', '"ab1""'],
    ),
    ({"type": "string", "pattern": "^a\\.b-[\\w-]+$"}, ['"a.b-c_-9"'], ['"axb-c"', '"a.b-"', '"a.b-\\""']),
    ({"type": "string", "format": "date"}, ['"2026-11-21"'], ['"2026-13-21"', '"x"']),
    ({"type": "string", "maxLength": 0}, ['""'], ['"a"']),
    ({"anyOf": [{"type": "integer"}, {"const": "no"}]}, ["1", '"no"'], ['"x"']),
    ({"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]}, ["1", '"a"'], ['"ab"']),
    ({"allOf": [{"type": "null"}]}, ["null"], ["1"]),
    ({"type": "object", "properties": {}}, ["{}"], ['{"a":1}']),
    (
        {"type": "object", "additionalProperties": {"type": "integer"}},
        ["{}", '{"a": 1, "b": 2}'],
        ['{"a": "x"}'],
    ),
    ({"type": "object"}, ["{}", '{"a": [1, {"b": null}]}'], ["[]"]),
    ({}, ["1", '"a"', "[]", "null", '{"a":1}'], ["", "x"]),
    (
        {
            "properties": {
                "root": {"type": "null"},
                "string": {"type": "integer"},
                "char": {"type": "string"},
            },
            "required": ["root", "string", "char"],
        },
        ['{"root": null, "string": 1, "char": "a"}'],
        ['{"root": 1, "string": 1, "char": "a"}'],
    ),
    (
        {
            "$ref": "#/$defs/string",
            "$defs": {"string": {"type": "array", "items": {"$ref": "#/definitions/a/string"}}},
            "definitions": {"a": {"string": {"type": "integer"}}},
        },
        ["[1]", "[]"],
        ['"x"', '["x"]'],
    ),
    (
        {
            "$ref": "#/$defs/tree",
            "$defs": {
                "tree": {
                    "properties": {"sub": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
                    "required": ["sub"],
                }
            },
        },
        ['{"sub": []}', '{"sub": [{"sub": []}]}'],
        ['{"sub": [1]}', "{}"],
    ),
    ({"title": "T", "description": "d", "type": "boolean", "default": True, "x-ours": 1}, ["true"], ["1"]),
]


@pytest.mark.parametrize(
    ("schema", "right", "wrong"), ALLOWED, ids=[json.dumps(s)[:40] for s, _, _ in ALLOWED]
)
def test_what_is_allowed(bytes_model: pyllama.Model, schema: Any, right: list[str], wrong: list[str]) -> None:
    if pyllama.build_info().pin == "2025-08" and escapes(enforceable(schema)):
        with pytest.raises(UsageError, match="at this pin"):
            grammar_of_schema(schema)
        return
    assert allows(bytes_model, schema, *right) == [True] * len(right)
    assert allows(bytes_model, schema, *wrong) == [False] * len(wrong)


REFUSED: list[tuple[Any, str]] = [
    (False, "allows nothing"),
    ("x", "no object"),
    ({"type": "thing"}, "#/type"),
    ({"type": "number", "minimum": 0}, "#/minimum"),
    ({"type": "number", "multipleOf": 2}, "multipleOf"),
    ({"type": "integer", "multipleOf": 2}, "multipleOf"),
    ({"type": "integer", "minimum": 2**40}, "at most"),
    ({"type": "integer", "minimum": 2, "maximum": 1}, "no integer"),
    ({"minimum": 2}, "without a type"),
    ({"type": "string", "format": "email"}, "'email' cannot be enforced"),
    ({"type": "string", "pattern": "abc"}, "begin with"),
    ({"type": "string", "pattern": "^a.c$"}, "pattern"),
    ({"type": "string", "pattern": "^[^a]$"}, "pattern"),
    ({"type": "string", "pattern": "^(?=a)b$"}, "pattern"),
    ({"type": "string", "pattern": "^a|b$"}, "brackets"),
    ({"type": "string", "pattern": '^"$'}, "pattern"),
    ({"type": "string", "pattern": "^\\s$"}, "pattern"),
    ({"type": "string", "pattern": "^a\\b$"}, "pattern"),
    ({"type": "string", "pattern": "^a*?$"}, "pattern"),
    ({"type": "string", "pattern": "^(a$"}, "no regular expression"),
    ({"type": "string", "pattern": "^a{5000}$"}, "more than"),
    ({"type": "string", "pattern": "^[a-c]+$", "minLength": 2}, "minLength"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, "less than"),
    ({"type": "string", "minLength": 5000}, "at most"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "array", "contains": {}}, "contains"),
    ({"type": "array", "prefixItems": [{}], "items": {"type": "null"}}, "items"),
    ({"type": "array", "prefixItems": [{}], "minItems": 2}, "prefixItems"),
    ({"type": "object", "minProperties": 1}, "minProperties"),
    ({"type": "object", "patternProperties": {}}, "patternProperties"),
    ({"type": "object", "properties": {}, "required": ["a"]}, "'a' is not among"),
    (
        {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "null"}},
        "additionalProperties",
    ),
    ({"type": "object", "properties": {"": {}}}, "called ''"),
    (
        {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"not": {}}}}}},
        "#/properties/a/properties/b/not",
    ),
    ({"not": {}}, "#/not"),
    ({"if": {}, "then": {}}, "#/if"),
    ({"type": "object", "dependentRequired": {}}, "dependentRequired"),
    ({"anyOf": []}, "anyOf"),
    ({"anyOf": [{}], "type": "object"}, "#/type"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "true at once"),
    ({"allOf": [{"type": "null"}, {"type": "null"}]}, "allOf"),
    ({"enum": []}, "leaves no value"),
    ({"enum": ["a"], "type": "integer"}, "leaves no value"),
    ({"const": 1, "minimum": 0}, "minimum"),
    ({"$ref": "#/$defs/a"}, "is not there"),
    ({"$ref": "https://example.org/x"}, "outside"),
    ({"$ref": "#"}, "outside"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}, "minimum": 1}, "#/minimum"),
    ({"nullable": True, "type": "string"}, "nullable"),
    ({"type": "null", "a": float("nan")}, "no JSON"),
    ({"type": "null", "a": object()}, "no JSON"),
    ({"enum": ["x" * 300_000]}, "characters"),
]


@pytest.mark.parametrize(("schema", "told"), REFUSED, ids=[told[:30] for _, told in REFUSED])
def test_what_cannot_be_enforced(schema: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("$", r"\$")):
        grammar_of_schema(schema)


def test_deep_schemas() -> None:
    deep: Any = {"type": "null"}
    for _ in range(200):
        deep = {"type": "array", "items": deep}
    with pytest.raises(UsageError, match="64 deep"):
        grammar_of_schema(deep)
    for _ in range(100_000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(UsageError, match="no JSON"):
        grammar_of_schema(deep)


def test_a_circle_of_references() -> None:
    """Upstream's parser of grammars would not come back from it."""
    grammar = grammar_of_schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})
    with pytest.raises(UsageError, match="left recursion"):
        check(grammar, "root")


@settings(max_examples=60, deadline=None)
@given(
    low=st.integers(-1200, 1200),
    size=st.integers(0, 1500),
    seen=st.lists(st.integers(-3000, 3000), min_size=20),
)
def test_bounds_of_integers(bytes_model: pyllama.Model, low: int, size: int, seen: list[int]) -> None:
    high = low + size
    values = [*seen, low - 1, low, low + 1, high - 1, high, high + 1, 0, -1]
    schema = {"type": "integer", "minimum": low, "maximum": high}
    assert allows(bytes_model, schema, *map(str, values)) == [low <= value <= high for value in values]


NAMES = st.text('ab"\\-]é_ ', min_size=1, max_size=4)
SCHEMAS = st.recursive(
    st.sampled_from(
        [
            *(
                {"type": kind}
                for kind in ("string", "integer", "number", "boolean", "null", "object", "array")
            ),
            {"type": "string", "maxLength": 4},
            {"type": "integer", "minimum": -7, "maximum": 40},
            {"enum": ["a", 'q"\\', 2, None]},
            {"type": "string", "pattern": "^[A-F]{1,3}$"},
        ]
    ),
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items, "maxItems": 3}, inner),
        st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda table, n: {"type": "object", "properties": table, "required": sorted(table)[:n]},
            st.dictionaries(NAMES, inner, max_size=3),
            st.integers(0, 3),
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(schema=SCHEMAS, seed=st.integers(0, 999))
def test_what_is_written_is_valid(
    tiny_model: Callable[[str], Path], opened: pyllama.Model, schema: Any, seed: int
) -> None:
    """Random weights write nothing sensible, and by the grammar still what the schema says."""
    assume(pyllama.build_info().pin != "2025-08" or not escapes(enforceable(schema)))
    params = SamplerParams(grammar=grammar_of_schema(schema), top_k=0, top_p=1, min_p=0, seed=seed)
    done = pyllama.generate(opened, "abc", max_tokens=150, params=params)
    if done.finish_reason == "stop" and "\ufffd" not in done.text:  # bytes that are no text at all
        jsonschema.validate(json.loads(done.text), schema)


@pytest.fixture(scope="module")
def opened(tiny_model: Callable[[str], Path]) -> Iterator[pyllama.Model]:
    with pyllama.Model(tiny_model("attention")) as model:
        yield model


def test_rewritten_schemas_mean_less_or_the_same() -> None:
    """The words that upstream gets are all words that it enforces."""
    known = {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "prefixItems",
        "anyOf",
        "enum",
    }
    known |= {"minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum", "pattern", "format"}
    known |= {"$ref", "$defs"}
    for schema, right, _ in ALLOWED:
        rewritten = enforceable(schema)
        assert set(rewritten) <= known
        for text in right:
            jsonschema.validate(json.loads(text), rewritten)
            jsonschema.validate(json.loads(text), schema)

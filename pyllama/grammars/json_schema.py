"""JSON schemas as grammars: only what the grammar really enforces; everything else is an error.

Upstream's converter passes over what it does not know. So a schema is first rewritten with the few
keywords that it takes seriously at every pin; whatever cannot be said with those is refused by name. Where a
schema leaves something open, the grammar may close it: each text that it allows is valid, but it
need not allow each valid text (an object has the named properties only, a tuple all of its items).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from .schema_pattern import translated

Schema = dict[str, Any]

_DEEPEST = 64
_LARGEST = 200_000  # characters of JSON
_MOST_TIMES = 1000  # repetitions; the grammar gets large and slow
_MOST_INT = 2**31 - 2  # 2025-08 counts in 32 bits
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_ANY = ("object", "array", "string", "number", "boolean", "null")
_SAYS_NOTHING = frozenset(
    [
        "title",
        "description",
        "default",
        "examples",
        "example",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$schema",
        "$id",
        "$comment",
        "$defs",
        "definitions",
        "$anchor",
    ]
)
_OF_TYPE = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
_FORMATS = ("date", "time", "date-time", "uuid", "uuid1", "uuid2", "uuid3", "uuid4", "uuid5")
_PYTHON = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


def enforceable(schema: object, *, name: str = "r") -> Schema:
    """Return the schema in the words that upstream's converter enforces.

    `name` begins the names of what `$ref` refers to; schemas that go into one grammar need different ones.
    Raises UsageError, which names the keyword and its place, for what cannot be enforced.
    """
    try:
        text = json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the schema is no JSON ({error}): use dicts, lists, texts and numbers") from None
    if len(text) > _LARGEST:
        raise UsageError(
            f"the schema has {len(text)} characters, and {_LARGEST} is the most: make it smaller"
        )
    whole = json.loads(text)
    rewriter = _Rewriter(whole, name)
    made = rewriter.node(whole, "#", 0)
    if "$ref" in made:  # before 2026-10, references within $defs are passed over where the whole is one
        made = {"anyOf": [made]}
    if rewriter.made:
        made = {**made, "$defs": rewriter.made}
    return made


def escapes(schema: object) -> str:
    """Return a text of a rewritten schema that JSON writes with a backslash; empty when there is none.

    They are values of `enum` and names of properties. At 2025-08 they come out wrong.
    """
    if isinstance(schema, list):
        return next(filter(None, map(escapes, schema)), "")
    if not isinstance(schema, dict):
        return ""
    words = [*schema.get("properties", ()), *schema.get("enum", ())]
    wrong = (text for text in (json.dumps(w, ensure_ascii=False) for w in words) if "\\" in text)
    return next(wrong, "") or next(filter(None, map(escapes, schema.values())), "")


class _Rewriter:
    def __init__(self, root: object, name: str) -> None:
        self._root = root
        self._name = name
        self._names: dict[str, str] = {}
        self.made: dict[str, Schema] = {}

    def node(self, schema: object, path: str, depth: int) -> Schema:
        if depth > _DEEPEST:
            raise UsageError(f"the schema is nested more than {_DEEPEST} deep at {path[:80]}…: use $ref")
        if schema is True or schema == {}:
            return {"anyOf": [{"type": kind} for kind in _ANY]}
        if not isinstance(schema, dict):
            raise _refused(path, "it allows nothing" if schema is False else "it is no object")
        said = {key: value for key, value in schema.items() if key not in _SAYS_NOTHING and key[:2] != "x-"}
        if not said:
            return self.node(True, path, depth)
        for key, rewrite in (
            ("$ref", self._ref),
            ("anyOf", self._any_of),
            ("oneOf", self._one_of),
            ("allOf", self._all_of),
        ):
            if key in said:
                self._alone(said, (key,), path)
                return rewrite(said[key], path, depth)
        if "const" in said or "enum" in said:
            return self._values(said, path)
        kinds = said.pop("type", None)
        if kinds is None:
            kinds = next((kind for kind, words in _OF_TYPE.items() if any(w in said for w in words)), None)
            if kinds == "integer" or kinds is None:
                word = next(iter(said))
                raise _refused(f"{path}/{word}", "it cannot be enforced without a type")
        several = kinds if isinstance(kinds, list) else [kinds]
        if not several or any(kind not in _TYPES for kind in several):
            raise _refused(f"{path}/type", f"{kinds!r} is no type")
        known = {word for kind in several for word in _OF_TYPE.get(kind, ())}
        for word in said:
            if word not in known:
                raise _refused(f"{path}/{word}", f"it cannot be enforced for type {' or '.join(several)}")
        rewritten = [
            self._typed(kind, {w: said[w] for w in _OF_TYPE.get(kind, ()) if w in said}, path, depth)
            for kind in several
        ]
        return rewritten[0] if len(rewritten) == 1 else {"anyOf": rewritten}

    def _alone(self, said: Schema, keys: tuple[str, ...], path: str) -> None:
        for other in said:
            if other not in keys:
                raise _refused(f"{path}/{other}", f"it cannot be enforced beside {keys[0]}")

    def _ref(self, ref: object, path: str, depth: int) -> Schema:
        if not isinstance(ref, str) or not ref.startswith("#/"):
            raise _refused(f"{path}/$ref", f"{ref!r} is outside of this schema, or is all of it")
        if ref not in self._names:
            self._names[ref] = f"{self._name}{len(self._names)}"
            target = self._resolved(ref, path)
            self.made[self._names[ref]] = self.node(target, ref, depth + 1)
        return {"$ref": f"#/$defs/{self._names[ref]}"}

    def _resolved(self, ref: str, path: str) -> object:
        target: Any = self._root
        for word in ref[2:].split("/"):
            word = word.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and word.isdecimal() and int(word) < len(target):
                target = target[int(word)]
            elif isinstance(target, dict) and word in target:
                target = target[word]
            else:
                raise _refused(f"{path}/$ref", f"{ref!r} is not there")
        return target

    def _any_of(self, branches: object, path: str, depth: int, key: str = "anyOf") -> Schema:
        if not isinstance(branches, list) or not branches:
            raise _refused(f"{path}/{key}", "it has to be a list of schemas")
        return {"anyOf": [self.node(b, f"{path}/{key}/{i}", depth + 1) for i, b in enumerate(branches)]}

    def _one_of(self, branches: object, path: str, depth: int) -> Schema:
        made = self._any_of(branches, path, depth, "oneOf")
        several = made["anyOf"]
        for i, one in enumerate(several):
            for other in several[:i]:
                if not self._disjoint(one, other, 0):
                    raise _refused(
                        f"{path}/oneOf", "two of its schemas may be true at once; anyOf can be enforced"
                    )
        return made

    def _disjoint(self, one: Schema, other: Schema, depth: int) -> bool:
        """Say whether no value fits both, as far as that is easy to see."""
        if depth > 8:
            return False
        for a, b in ((one, other), (other, one)):
            if "$ref" in a:
                target = self.made.get(a["$ref"].rpartition("/")[2])
                return target is not None and self._disjoint(target, b, depth + 1)
            if "anyOf" in a:
                return all(self._disjoint(branch, b, depth + 1) for branch in a["anyOf"])
        if "enum" in one and "enum" in other:
            return not any(_same(a, b) for a in one["enum"] for b in other["enum"])
        kinds, others = _kinds(one), _kinds(other)
        if not kinds & others:
            return True
        if kinds == others == {"object"} and "enum" not in one and "enum" not in other:
            shared = set(one.get("required", ())) & set(other.get("required", ()))
            return any(
                self._disjoint(one["properties"][name], other["properties"][name], depth + 1)
                for name in shared
            )
        return False

    def _all_of(self, branches: object, path: str, depth: int) -> Schema:
        if not isinstance(branches, list) or len(branches) != 1:
            raise _refused(f"{path}/allOf", "only one schema in it can be enforced")
        return self.node(branches[0], f"{path}/allOf/0", depth + 1)

    def _values(self, said: Schema, path: str) -> Schema:
        key = "const" if "const" in said else "enum"
        self._alone(said, (key, "type"), path)
        values = [said["const"]] if key == "const" else said["enum"]
        kinds = said.get("type", list(_TYPES))
        allowed = set(kinds if isinstance(kinds, list) else [kinds])
        if not isinstance(values, list):
            raise _refused(f"{path}/enum", "it has to be a list")
        fitting = [
            v for v in values if _kind(v) in allowed or (_kind(v) == "integer" and "number" in allowed)
        ]
        if not fitting:
            raise _refused(f"{path}/{key}", "it leaves no value")
        return {"enum": fitting}

    def _typed(self, kind: str, said: Schema, path: str, depth: int) -> Schema:
        if kind == "object":
            return self._object(said, path, depth)
        if kind == "array":
            return self._array(said, path, depth)
        if kind == "string":
            return _string(said, path)
        if kind == "integer":
            return _integer(said, path)
        return {"type": kind}

    def _object(self, said: Schema, path: str, depth: int) -> Schema:
        properties, more = said.get("properties"), said.get("additionalProperties")
        required = said.get("required", [])
        if properties is not None and not isinstance(properties, dict):
            raise _refused(f"{path}/properties", "it has to be an object")
        if not isinstance(required, list):
            raise _refused(f"{path}/required", "it has to be a list")
        missing = [name for name in required if name not in (properties or {})]
        if missing:
            raise _refused(f"{path}/required", f"{missing[0]!r} is not among the properties")
        if not properties and isinstance(more, dict) and more:
            return {
                "type": "object",
                "additionalProperties": self.node(more, f"{path}/additionalProperties", depth + 1),
            }
        if properties is None and more is not False:
            return {"type": "object"}
        if more is not None and not isinstance(more, bool) and more != {}:
            raise _refused(f"{path}/additionalProperties", "it cannot be enforced beside properties")
        for name in ("", "$ref"):
            if name in (properties or {}):
                raise _refused(f"{path}/properties", f"a property called {name!r} cannot be enforced")
        return {
            "type": "object",
            "properties": {
                name: self.node(value, f"{path}/properties/{name}", depth + 1)
                for name, value in (properties or {}).items()
            },
            "required": list(dict.fromkeys(required)),
            "additionalProperties": False,
        }

    def _array(self, said: Schema, path: str, depth: int) -> Schema:
        if said.get("uniqueItems", False) is not False:
            raise _refused(f"{path}/uniqueItems", "it cannot be enforced")
        least, most = _count(said, "minItems", path) or 0, _count(said, "maxItems", path)
        items, first = said.get("items", True), said.get("prefixItems")
        if isinstance(items, list) and first is None:
            items, first = True, items
        if first is not None:
            if not isinstance(first, list) or not first:
                raise _refused(f"{path}/prefixItems", "it has to be a list of schemas")
            if not least <= len(first) <= (len(first) if most is None else most):
                raise _refused(f"{path}/prefixItems", "only as many items as it names can be enforced")
            if not isinstance(items, bool):
                raise _refused(f"{path}/items", "it cannot be enforced beside prefixItems")
            each = [self.node(v, f"{path}/prefixItems/{i}", depth + 1) for i, v in enumerate(first)]
            return {"type": "array", "prefixItems": each}
        if most == 0 or items is False:
            if least:
                raise _refused(f"{path}/minItems", "it is more than maxItems")
            return {"enum": [[]]}
        if items is True and not least and most is None:
            return {"type": "array"}
        made: Schema = {"type": "array", "items": self.node(items, f"{path}/items", depth + 1)}
        return {**made, **_between("Items", least, most, path)}


def _string(said: Schema, path: str) -> Schema:
    least, most = _count(said, "minLength", path) or 0, _count(said, "maxLength", path)
    special = [word for word in ("pattern", "format") if word in said]
    if special and len(said) > 1:
        other = next(word for word in said if word != special[0])
        raise _refused(f"{path}/{other}", f"it cannot be enforced beside {special[0]}")
    if "format" in said:
        if said["format"] not in _FORMATS:
            raise _refused(
                f"{path}/format", f"{said['format']!r} cannot be enforced, {', '.join(_FORMATS)} can"
            )
        return {"type": "string", "format": said["format"]}
    if "pattern" in said:
        try:
            return {"type": "string", "pattern": translated(said["pattern"])}
        except UsageError as error:
            raise _refused(f"{path}/pattern", str(error)) from None
    if most == 0 and not least:
        return {"enum": [""]}
    return {"type": "string", **_between("Length", least, most, path)}


def _integer(said: Schema, path: str) -> Schema:
    lows: list[int] = []
    highs: list[int] = []
    for word, value in said.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _MOST_INT:
            raise _refused(f"{path}/{word}", f"it has to be a number of at most {_MOST_INT}")
        if word == "minimum":
            lows.append(math.ceil(value))
        elif word == "exclusiveMinimum":
            lows.append(math.floor(value) + 1)
        elif word == "maximum":
            highs.append(math.floor(value))
        else:
            highs.append(math.ceil(value) - 1)
    if lows and highs and max(lows) > min(highs):
        raise _refused(f"{path}/minimum", "it leaves no integer")
    made: Schema = {"type": "integer"}
    if lows:
        made["minimum"] = max(lows)
    if highs:
        made["maximum"] = min(highs)
    return made


def _between(what: str, least: int, most: int | None, path: str) -> Schema:
    if most is not None and most < least:
        raise _refused(f"{path}/max{what}", f"it is less than min{what}")
    made: Schema = {}
    if least:
        made[f"min{what}"] = least
    if most is not None:
        made[f"max{what}"] = most
    return made


def _count(said: Schema, word: str, path: str) -> int | None:
    value = said.get(word)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_TIMES:
        raise _refused(f"{path}/{word}", f"it has to be an integer of at most {_MOST_TIMES}")
    return value


def _kind(value: object) -> str:
    return "null" if value is None else _PYTHON[type(value)]


def _kinds(schema: Schema) -> set[str]:
    kinds = {_kind(value) for value in schema["enum"]} if "enum" in schema else {str(schema.get("type"))}
    return {"number" if kind == "integer" else kind for kind in kinds}


def _same(one: object, other: object) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _refused(path: str, why: str) -> UsageError:
    return UsageError(f"the schema's {path} cannot be used: {why}")


def is_schema(value: object) -> bool:
    """Say whether a value can be a schema at all."""
    return isinstance(value, Mapping | bool)

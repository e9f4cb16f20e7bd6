"""What upstream's grammar parser does not survive, found before it sees the text.

It calls itself for each bracket within a bracket and for each rule that begins with a rule, until the
stack overflows. Of rules that begin with themselves it notices some; one behind a rule that may be empty,
or a repetition of what may be empty, keeps it busy until the memory is full (2025-08: both kinds).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import UsageError

_DEEPEST = 100  # brackets within brackets
_MOST_RULES = 4000
_MOST_TIMES = 2000  # upstream's own limit, where it has one
_TOKENS = re.compile(
    r'(?P<string>"(?:\\.|[^"\\])*")|(?P<set>\[(?:\\.|[^\]\\])*\])|(?P<one>!?<[^>\n]*>|\.)'
    r"|(?P<defined>::=)|(?P<name>[A-Za-z0-9-]+)|(?P<times>\{[^}]*\})|(?P<mark>[|()*+?])"
    r"|(?P<end>\r?\n|\r)|(?P<gap>[ \t]+|\#[^\n\r]*)",
    re.DOTALL,
)
_TIMES = re.compile(r"\{\s*(\d+)\s*(?:,\s*(\d*)\s*)?\}")


@dataclass
class _Item:
    """Something in a sequence: text, a rule's name, or choices in brackets."""

    empty: bool = False
    """Whether it may be nothing, as far as its own text says."""
    name: str = ""
    choices: list[list[_Item]] | None = None
    repeated: bool = False
    """Whether it may come any number of times."""


class _Unknown(Exception):
    """Text that is left to upstream to judge."""


def check(text: str, root: str) -> bytes:
    """Return the text for C. Raises UsageError for what would end the process."""
    if not text.strip():
        raise UsageError("the grammar is empty: write a rule `root ::= …`, or give None for no grammar")
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise UsageError("the grammar holds half a surrogate pair: take it out") from None
    if not re.search(rf"(?m)^[ \t]*{re.escape(root)}[ \t]*::=", text):
        raise UsageError(f"the grammar has no rule {root!r}: add one, or name another by grammar_root")
    try:
        rules = _parse(list(_tokens(text)))
    except _Unknown:
        return data  # no grammar, and upstream says why
    if len(rules) > _MOST_RULES:
        raise UsageError(f"the grammar has {len(rules)} rules, and {_MOST_RULES} is the most: write fewer")
    empty = _empty_rules(rules)
    for name, choices in rules.items():
        if any(_repeats_nothing(item, empty) for sequence in choices for item in sequence):
            raise UsageError(
                f"the grammar's rule {name} repeats something that may be empty: let it have a character at "
                "least, the repetition may still be empty as a whole"
            )
    found = _circle({name: set(_first(choices, empty)) for name, choices in rules.items()})
    if found:
        raise UsageError(
            f"the grammar's rule {found} begins with itself (left recursion): let it begin with "
            "something else"
        )
    return data


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    place = 0
    while place < len(text):
        found = _TOKENS.match(text, place)
        if found is None or found.lastgroup is None:
            raise _Unknown
        if found.lastgroup != "gap":
            yield found.lastgroup, found[0]
        place = found.end()


def _parse(tokens: list[tuple[str, str]]) -> dict[str, list[list[_Item]]]:
    rules: dict[str, list[list[_Item]]] = {}
    outer: list[list[list[_Item]]] = []  # the choices of the brackets that are open
    choices: list[list[_Item]] = [[]]
    for i, (kind, word) in enumerate(tokens):
        if kind == "name" and i + 1 < len(tokens) and tokens[i + 1][0] == "defined":
            if outer:
                raise _Unknown
            choices = rules[word] = [[]]
        elif kind == "name":
            choices[-1].append(_Item(name=word))
        elif kind in ("string", "set", "one"):
            choices[-1].append(_Item(empty=word == '""'))
        elif word == "|":
            choices.append([])
        elif word == "(":
            outer.append(choices)
            if len(outer) > _DEEPEST:
                raise UsageError(f"the grammar nests brackets more than {_DEEPEST} deep: use rules")
            choices = [[]]
        elif word == ")":
            if not outer:
                raise _Unknown
            group, choices = _Item(choices=choices), outer.pop()
            choices[-1].append(group)
        elif kind in ("times", "mark"):
            if not choices[-1]:
                raise _Unknown
            choices[-1][-1] = _multiplied(choices[-1][-1], word)
    if outer or not rules:
        raise _Unknown
    return rules


def _multiplied(item: _Item, word: str) -> _Item:
    if word in ("*", "+", "?"):
        return _Item(empty=word != "+", choices=[[item]], repeated=word != "?")
    found = _TIMES.fullmatch(word)
    if found is None:
        raise _Unknown
    least, most = int(found[1]), int(found[2] or found[1])
    if not least <= most <= _MOST_TIMES:
        raise UsageError(f"the grammar repeats {word}: give two numbers in order, up to {_MOST_TIMES}")
    return _Item(empty=least == 0, choices=[[item]], repeated=word.replace(" ", "").endswith(",}"))


def _empty_rules(rules: dict[str, list[list[_Item]]]) -> set[str]:
    """Return the rules that may be nothing."""
    empty: set[str] = set()
    while True:
        more = {
            name
            for name, choices in rules.items()
            if name not in empty and any(all(_is_empty(item, empty) for item in one) for one in choices)
        }
        if not more:
            return empty
        empty |= more


def _is_empty(item: _Item, empty: set[str]) -> bool:
    if item.empty or item.name in empty:
        return True
    return item.choices is not None and any(all(_is_empty(i, empty) for i in one) for one in item.choices)


def _repeats_nothing(item: _Item, empty: set[str]) -> bool:
    inner = [i for one in item.choices or () for i in one]
    return (item.repeated and any(_is_empty(i, empty) for i in inner)) or any(
        _repeats_nothing(i, empty) for i in inner
    )


def _first(choices: list[list[_Item]], empty: set[str]) -> Iterator[str]:
    """Yield the rules that these choices may begin with."""
    for sequence in choices:
        for item in sequence:
            if item.name:
                yield item.name
            if item.choices is not None:
                yield from _first(item.choices, empty)
            if not _is_empty(item, empty):
                break


def _circle(edges: dict[str, set[str]]) -> str | None:
    """Return a node from which a way leads back to it; None where there is none."""
    left = {name: {other for other in others if other in edges} for name, others in edges.items()}
    while True:  # nodes without a way on are on no circle
        ends = {name for name, others in left.items() if not others}
        if not ends:
            break
        left = {name: others - ends for name, others in left.items() if name not in ends}
    return _on_it(left) if left else None


def _on_it(edges: dict[str, set[str]]) -> str:
    """Return a node on a circle: every node has a way on, so any walk meets one."""
    seen: set[str] = set()
    name = next(iter(edges))
    while name not in seen:
        seen.add(name)
        name = min(edges[name])
    return name

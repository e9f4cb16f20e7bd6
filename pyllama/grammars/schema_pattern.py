"""Regular expressions of JSON schemas: the part of them that a grammar enforces.

The text stands between quotes in JSON, where a quote, a backslash or a line's end would have to be escaped;
upstream lets `.` or `[^a]` match those as they are. So only characters that JSON leaves alone are allowed.
"""

from __future__ import annotations

import re

from ..errors import UsageError

_PLAIN = re.compile(r"[A-Za-z0-9 _:;,@#%&=~!'<>/-]")
_ESCAPED = re.compile(r"\\[.+*?()\[\]{}|^$/-]")
_CLASSES = {r"\d": "0-9", r"\w": "A-Za-z0-9_"}
_IN_CLASS = re.compile(r"[A-Za-z0-9 _:;,@#%&=~!'<>/.+*?(){}|$]")
_TIMES = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_MOST_TIMES = 1000
_LONGEST = 2000
_DEEPEST = 20


def translated(pattern: object) -> str:
    """Return the pattern in the words that upstream's converter takes as they are meant.

    Raises UsageError, which says what of it cannot be enforced.
    """
    if not isinstance(pattern, str) or len(pattern) > _LONGEST:
        raise UsageError(f"it has to be a text of at most {_LONGEST} characters")
    if not (pattern.startswith("^") and pattern.endswith("$") and not pattern.endswith("\\$")):
        raise UsageError("it has to begin with ^ and end with $, anything else also allows text around it")
    inside = pattern[1:-1]
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"it is no regular expression ({error})") from None
    made: list[str] = []
    place = depth = 0
    repeatable = top_choice = False
    while place < len(inside):
        rest = inside[place:]
        if rest.startswith("("):
            opened = "(?:" if rest.startswith("(?:") else "("
            if rest.startswith("(?") and opened == "(":
                raise UsageError(f"{rest[:4]!r} cannot be enforced")
            depth += 1
            if depth > _DEEPEST:
                raise UsageError(f"it nests brackets more than {_DEEPEST} deep")
            made.append("(")
            place += len(opened)
            repeatable = False
            continue
        if rest.startswith(")"):
            depth -= 1
            word, size, repeatable = ")", 1, True
        elif rest.startswith("|"):
            top_choice = top_choice or depth == 0
            word, size, repeatable = "|", 1, False
        elif rest[0] in "*+?{":
            word = _repetition(rest)
            size = len(word)
            if not repeatable:
                raise UsageError(f"{rest[:3]!r} repeats nothing, or a repetition")
            repeatable = False
        elif rest.startswith("["):
            word, size = _set(rest)
            repeatable = True
        elif rest[:2] in _CLASSES:
            word, size, repeatable = f"[{_CLASSES[rest[:2]]}]", 2, True
        elif _ESCAPED.match(rest):
            char = rest[1]
            word, size, repeatable = (char if char in "/-" else rest[:2]), 2, True
        elif _PLAIN.match(rest):
            word, size, repeatable = rest[0], 1, True
        else:
            raise UsageError(f"{rest[:2]!r} cannot be enforced: write a set of characters, as in [a-z0-9]")
        made.append(word)
        place += size
    if top_choice:  # `^a|b$` is not `^(a|b)$`
        raise UsageError("a choice has to be in brackets, as in ^(a|b)$")
    return f"^{''.join(made)}$"


def _repetition(rest: str) -> str:
    if rest[0] != "{":
        word = rest[0]
    else:
        found = _TIMES.match(rest)
        if found is None:
            raise UsageError(f"{rest[:4]!r} cannot be enforced")
        if max(int(found[1]), int(found[2] or 0)) > _MOST_TIMES:
            raise UsageError(f"{found[0]!r} repeats more than {_MOST_TIMES} times")
        word = found[0]
    if rest[len(word) : len(word) + 1] in ("?", "+"):
        raise UsageError(f"{rest[: len(word) + 1]!r} cannot be enforced")
    return word


def _set(rest: str) -> tuple[str, int]:
    """Return a set of characters, and how much of `rest` it takes."""
    if rest.startswith("[^"):
        raise UsageError("[^…] cannot be enforced: write the characters that are allowed")
    made, place = "", 1
    while rest[place] != "]" or place == 1:
        two = rest[place : place + 2]
        if two in _CLASSES:
            made += _CLASSES[two]
            place += 2
        elif re.match(r"[A-Za-z0-9]-[A-Za-z0-9]", rest[place:]):
            made += rest[place : place + 3]
            place += 3
        elif two == "\\-" or (rest[place] == "-" and (place == 1 or rest[place + 1] == "]")):
            made = "-" + made if not made.startswith("-") else made
            place += len(two) if two == "\\-" else 1
        elif two[0] == "\\" and len(two) == 2 and re.match(r"[.+*?(){}|$/]", two[1]):
            made += two[1]
            place += 2
        elif _IN_CLASS.match(two[0]):
            made += two[0]
            place += 1
        else:
            raise UsageError(f"{two!r} in [] cannot be enforced")
    return f"[{made}]", place + 1

"""Lines of source compared by what they say: white space, comments and bare punctuation aside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import PurePosixPath

Tokens = tuple[str, ...]

NEAR = 0.85
"""Similarity of two lines, by their tokens, from which on they may say the same."""

_C_SUFFIXES = frozenset(
    (
        ".c",
        ".cc",
        ".cpp",
        ".cxx",
        ".h",
        ".hh",
        ".hpp",
        ".cu",
        ".cuh",
        ".m",
        ".mm",
        ".metal",
        ".comp",
        ".cl",
        ".js",
    )
)
_HASH_SUFFIXES = frozenset((".cmake", ".py", ".sh", ".toml", ".yml", ".yaml", ".mk"))
_HASH_NAMES = frozenset(("CMakeLists.txt", "Makefile"))

_STRING = r"""(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')"""
_C_COMMENT = re.compile(rf"(?s){_STRING}|//[^\n]*|/\*.*?(?:\*/|\Z)")
_HASH_COMMENT = re.compile(rf"{_STRING}|#[^\n]*")
_TOKEN = re.compile(rf"{_STRING}|[A-Za-z_]\w*|\.?\d[\w.]*|->|::|\+\+|--|&&|\|\||<<|>>|[-+*/%&|^!=<>]=|\S")
_NAME = re.compile(r"[A-Za-z_]\w*")
_WORDS = """
auto bool break case catch char class const constexpr continue default define defined delete do double elif
else elseif endforeach endfunction endif endmacro endwhile enum explicit extern false final float for goto
if ifdef ifndef include inline int int16_t int32_t int64_t int8_t long namespace new noexcept not nullptr
operator override pragma private protected public register return short signed size_t sizeof static
static_cast std struct switch template this throw true try typedef typename undef union unsigned using
uint16_t uint32_t uint64_t uint8_t virtual void volatile while NULL None True False ON OFF and or
"""
_PLAIN = frozenset(_WORDS.split())
"""Words of the languages themselves: a line with no other says nothing of its own."""
_SOFT = frozenset(
    (
        "const",
        "constexpr",
        "static",
        "inline",
        "auto",
        "struct",
        "enum",
        "noexcept",
        "std",
        "::",
        "{",
        "}",
        ";",
    )
)
"""What one writes and another leaves out without saying something else."""
_MEMBER = frozenset((".", "->", "::", "struct", "class", "enum", "union", "goto", "define", "include"))
_SHORT = 7
"""Fewer tokens than this are no line in which a variable may have another name."""


def language(path: str) -> str:
    """Return a word for how a file is written: the same for all in which code can move about."""
    where = PurePosixPath(path)
    if where.suffix in _C_SUFFIXES:
        return "c"
    return "#" if where.suffix in _HASH_SUFFIXES or where.name in _HASH_NAMES else where.suffix


def by_line(text: str, path: str) -> list[Tokens]:
    """Return the tokens of each line; comments are none."""
    comment = {"c": _C_COMMENT, "#": _HASH_COMMENT}.get(language(path))
    if comment is not None:
        text = comment.sub(_blank, text)
    return [tuple(_TOKEN.findall(line)) for line in text.split("\n")]


def _blank(match: re.Match[str]) -> str:
    found = match[0]
    return found if found[0] in "\"'" else "\n" * found.count("\n") or " "


def significant(tokens: Tokens) -> bool:
    """Say whether a line says something of its own: it has a name or a string in it."""
    return any(_own(token) or token[0] in "\"'" for token in tokens)


def bare(tokens: Tokens) -> Tokens:
    """Return the tokens without punctuation."""
    return tuple(token for token in tokens if token[0].isalnum() or token[0] in "_\"'")


def renames(
    ours: Tokens, theirs: Tokens, removed: Sequence[Tokens], known: Container[str], code: bool
) -> dict[str, str] | None:
    """Return the variables that a near-equal line calls otherwise, or None when it says something else.

    Upstream may write it with other qualifiers, and a variable of the function may have another name.
    A name that our hunk knows already (`known`) is another variable, not the same one under a new name.
    What our line changed in a line that it took out (one of `removed`) must be there as it is: the line
    that both sides come from is near-equal too.
    """
    matcher = SequenceMatcher(None, ours, theirs, autojunk=False)
    if min(matcher.real_quick_ratio(), matcher.quick_ratio()) < NEAR or matcher.ratio() < NEAR:
        return None
    found: dict[str, str] = {}
    kept: set[int] = set()
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        mine, others = ours[i:i_end], theirs[j:j_end]
        if tag == "equal":
            kept.update(range(i, i_end))
        elif set(mine) <= _SOFT and set(others) <= _SOFT:
            continue
        elif (
            tag == "replace" and len(mine) == len(others) and code and len(ours) >= _SHORT and ours[0] != "#"
        ):
            for k, (old, new) in enumerate(zip(mine, others, strict=True)):
                if not (_local(ours, i + k) and _local(theirs, j + k)) or new in known:
                    return None
                if found.setdefault(old, new) != new:
                    return None
        else:
            return None
    if len({*found.values()}) < len(found):
        return None
    if found and not any(_own(ours[i]) and len(ours[i]) > 2 for i in kept):
        return None
    return found if _news(ours, removed) <= kept else None


def renamed(tokens: Tokens, names: Mapping[str, str]) -> Tokens:
    """Return the tokens with other names."""
    return tuple(names.get(token, token) for token in tokens)


def _news(ours: Tokens, removed: Sequence[Tokens]) -> set[int]:
    """Return the indexes of the tokens that our line has and the removed line it replaces has not."""
    scored = [(SequenceMatcher(None, old, ours, autojunk=False), old) for old in removed]
    matcher = max((m for m, _ in scored), key=lambda m: m.ratio(), default=None)
    if matcher is None or matcher.ratio() < 0.5:
        return set()
    same = {i for block in matcher.get_matching_blocks() for i in range(block.b, block.b + block.size)}
    return set(range(len(ours))) - same


def _own(token: str) -> bool:
    return token not in _PLAIN and _NAME.fullmatch(token) is not None


def _local(tokens: Tokens, at: int) -> bool:
    """Say whether the token there can be a variable of the function: nothing called, no member, no macro."""
    token = tokens[at]
    before = tokens[at - 1] if at else ""
    after = tokens[at + 1] if at + 1 < len(tokens) else ""
    return _own(token) and not token.isupper() and before not in _MEMBER and after not in ("(", "::")


def counts(lines: Sequence[Tokens]) -> Counter[Tokens]:
    """Count equal lines."""
    return Counter(line for line in lines if line)


def runs(block: Sequence[Tokens], lines: Sequence[Tokens]) -> list[int]:
    """Return the indexes at which a block begins whose lines follow each other, empty ones aside."""
    wanted = [tokens for tokens in block if tokens]
    filled = [index for index, tokens in enumerate(lines) if tokens]
    if not wanted:
        return []
    return [
        index
        for at, index in enumerate(filled[: len(filled) - len(wanted) + 1])
        if lines[index] == wanted[0]
        and all(lines[filled[at + step]] == tokens for step, tokens in enumerate(wanted))
    ]

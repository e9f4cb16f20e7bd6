"""The file of a saved sequence: what it is of, and a checksum over all of it. Pure functions of bytes.

| bytes | what |
|---|---|
| 8 | `pyllama` and a zero byte |
| 4, 4 | version, length of the header; unsigned, the lowest byte first |
| … | the header, JSON in UTF-8: `identity`, `length`, `tokens` and `state` (their numbers) |
| 4 each | the tokens, signed |
| … | llama.cpp's state of the sequence |
| 32 | SHA-256 of everything before |
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import StateError

Identity = Mapping[str, str]

_MAGIC = b"pyllama\0"
_VERSION = 2  # 1 did not say how positions, experts and a control vector were set: nobody can tell any more
_FIXED = struct.Struct("<8sII")
_SUM = 32
_MOST_HEADER = 1 << 20
_CHUNK = 1 << 24  # bytes that are hashed at once


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    identity: Identity
    """What the state is of, by name: model, build, types of the cache."""
    length: int
    """Positions that the sequence held, in tokens."""
    tokens: tuple[int, ...]
    """The text, where it was known; else nothing."""
    nbytes: int
    """Bytes of llama.cpp's state."""


def head(header: Header) -> bytes:
    """Return what comes before the state."""
    fields = {
        "identity": dict(header.identity),
        "length": header.length,
        "tokens": len(header.tokens),
        "state": header.nbytes,
    }
    text = json.dumps(fields, sort_keys=True).encode()
    return _FIXED.pack(_MAGIC, _VERSION, len(text)) + text + _words(array("i", header.tokens)).tobytes()


def total(header: Header) -> int:
    """Return the bytes of the whole file."""
    return len(head(header)) + header.nbytes + _SUM


def seal(data: memoryview) -> None:
    """Write the checksum, into the last bytes."""
    data[-_SUM:] = _digest(data[:-_SUM])


def opened(data: memoryview, what: str) -> tuple[Header, memoryview]:
    """Check all of a file, called `what` in errors, and return its header and llama.cpp's state.

    Raises StateError for one that is damaged, cut short or no such file.
    """
    size = len(data)
    if size < _FIXED.size + _SUM or bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise StateError(f"{what} is no saved sequence, or its beginning is damaged: save it again")
    _, version, length = _FIXED.unpack_from(data)
    if version != _VERSION:
        raise StateError(
            f"{what} has format {version}, this pyllama reads {_VERSION}: save it again, or it is damaged"
        )
    if _digest(data[:-_SUM]) != data[-_SUM:]:
        raise StateError(f"{what} is damaged or cut short, its checksum is wrong: save it again")
    start = _FIXED.size + length
    if length > _MOST_HEADER or start > size - _SUM:
        raise _wrong(what)
    try:
        fields = json.loads(bytes(data[_FIXED.size : start]))
        header, count = _header(fields)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _wrong(what) from None
    end = start + 4 * count
    if end + header.nbytes + _SUM != size:
        raise _wrong(what)
    words = array("i")
    words.frombytes(data[start:end])
    found = Header(header.identity, header.length, tuple(_words(words)), header.nbytes)
    return found, data[end : size - _SUM]


def differences(there: Identity, here: Identity) -> str:
    """Say what differs between two identities; nothing when they are the same."""
    names = sorted({*there, *here})
    return ", ".join(
        f"{name} is {_short(there.get(name))} there and {_short(here.get(name))} here"
        for name in names
        if there.get(name) != here.get(name)
    )


def _short(value: str | None) -> str:
    return "not given" if value is None else value if len(value) <= 40 else f"{value[:12]}…"


def _header(fields: Any) -> tuple[Header, int]:
    identity = fields["identity"]
    numbers = [fields[name] for name in ("length", "tokens", "state")]
    if not all(type(number) is int and 0 <= number < 2**62 for number in numbers):
        raise ValueError("no count")
    if not isinstance(identity, dict) or not all(isinstance(value, str) for value in identity.values()):
        raise ValueError("no identity")
    length, count, nbytes = numbers
    if count not in (0, length):
        raise ValueError("other tokens than positions")
    return Header(identity, length, (), nbytes), count


def _wrong(what: str) -> StateError:
    return StateError(f"the header of {what} does not fit its size: it was not written by pyllama")


def _digest(data: memoryview) -> bytes:
    found = hashlib.sha256()
    for start in range(0, len(data), _CHUNK):
        found.update(data[start : start + _CHUNK])
    return found.digest()


def _words(words: array[int]) -> array[int]:
    """Turn words from this machine's order of bytes to the file's, or back; in place."""
    if sys.byteorder == "big":
        words.byteswap()
    return words

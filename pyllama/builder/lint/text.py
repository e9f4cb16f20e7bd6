"""Files as text: encoding, line ends, what a merge or a machine has left in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from .finding import Finding, Place

_MARKER = re.compile(r"(?:<{7}|\|{7}|>{7})(?: |$)")
_MIDDLE = "======="
_MACHINE = re.compile(
    r"(?<![\w.-])/(?:home|Users)/\w+|(?<![\w.-])/root/\w|(?<![\w.-])/(?:var/)?tmp/\w|\b[A-Za-z]:\\+Users\\"
)


def check(place: Place, data: bytes, checkout: Path | None) -> Iterator[Finding]:
    """Check a whole file."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        yield place.error("utf-8", f"byte {error.start} is not UTF-8: save the file as UTF-8")
        return
    if data and not data.endswith(b"\n"):
        yield place.error("final-line-feed", "the last line does not end with a line feed")
    lines = list(enumerate(text.split("\n"), 1))
    first_cr = next((number for number, line in lines if line.endswith("\r")), None)
    if first_cr is not None:
        yield place.error("lf", "lines end with CRLF: save the file with LF", first_cr)
    yield from check_lines(place, lines, checkout)


def check_lines(place: Place, lines: Iterable[tuple[int, str]], checkout: Path | None) -> Iterator[Finding]:
    """Check numbered lines for conflict markers, paths of a machine and blanks at their ends."""
    numbered = list(lines)
    marked = [number for number, line in numbered if _MARKER.match(line)]
    for number in marked:
        yield place.error("conflict-marker", "a conflict marker was left here: resolve the conflict", number)
    for number, line in numbered:
        if marked and line.rstrip("\r") == _MIDDLE:
            yield place.error(
                "conflict-marker", "a conflict marker was left here: resolve the conflict", number
            )
        found = _MACHINE.search(line)
        if found or (checkout is not None and str(checkout) in line):
            what = found[0] if found else str(checkout)
            yield place.error("machine-path", f"{what!r} is a path of one machine", number)
        if line.rstrip("\r") != line.rstrip("\r").rstrip() and not place.file.endswith(".md"):
            yield place.warning("trailing-blanks", "the line ends with blanks", number)

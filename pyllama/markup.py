"""HTML for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def table(rows: Mapping[str, object], *, title: str = "") -> str:
    """Return a table of names and values. Everything is escaped; line breaks of texts are kept."""
    head = f"<caption>{escape(title)}</caption>" if title else ""
    cells = (
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left;white-space:pre-wrap">{escape(str(value))}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table>{head}{''.join(cells)}</table>"


def grid(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> str:
    """Return a table with a row of headings. Everything is escaped."""
    head = f"<caption>{escape(title)}</caption>" if title else ""
    names = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(value))}</td>' for value in row)}</tr>" for row in rows)
    return f"<table>{head}<tr>{names}</tr>{body}</table>"


def size(nbytes: int) -> str:
    """Return a number of bytes as people read it, e.g. `98.4 MiB`."""
    value = float(nbytes)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{nbytes} bytes" if unit == _UNITS[0] else f"{value:.1f} {unit}"

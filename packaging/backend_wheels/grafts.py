"""Whose libraries auditwheel may put into a wheel, under which licences. Pure functions.

Seen in the sources of GCC 12 and OpenBLAS 0.3.21, as Debian's `copyright` files of their packages list them.
What is not in the table stops the session: a wheel must not say less than it holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyllama.errors import BuildError


@dataclass(frozen=True)
class Graft:
    """A library of the system that a wheel may carry."""

    begins: str
    """How its file is called, and on Debian its package."""
    license: str
    """SPDX expression."""
    texts: tuple[str, ...] = ()
    """Of Debian's `common-licenses`, to which the package's own file refers for the text."""


_GCC = "GPL-3.0-or-later WITH GCC-exception-3.1"
GRAFTS = (
    Graft("libgomp", _GCC, ("GPL-3",)),
    Graft("libgfortran", _GCC, ("GPL-3",)),
    # Its frame is LGPL 2 or later, the functions are glibc's, LGPL 2.1 or later.
    Graft("libquadmath", "LGPL-2.0-or-later AND LGPL-2.1-or-later", ("LGPL-2", "LGPL-2.1")),
    # OpenBLAS itself, the kernels that it has from GotoBLAS, and the reference LAPACK that is linked in.
    Graft("libopenblas", "BSD-3-Clause AND BSD-2-Clause-Views AND BSD-3-Clause-Open-MPI"),
)


def known(name: str) -> Graft | None:
    """Return the row of a library's file, or of a package of Debian."""
    return next((row for row in GRAFTS if name.startswith(row.begins)), None)


def rows(libraries: Iterable[str]) -> list[Graft]:
    """Return the rows of the libraries in a wheel, in the order of the table.

    Raises BuildError for one that is not in it.
    """
    found = set()
    for library in libraries:
        row = known(library)
        if row is None:
            raise BuildError(
                f"auditwheel put {library} into the wheel, and its licence is not known: add a row to "
                "packaging/backend_wheels/grafts.py, or exclude the library"
            )
        found.add(row)
    return [row for row in GRAFTS if row in found]


def expression(own: Iterable[str], grafted: Iterable[Graft]) -> str:
    """Return the SPDX expression for a wheel: what is ours or compiled in, and what was grafted."""
    parts: dict[str, None] = {}
    for words in (*own, *(row.license for row in grafted)):
        for part in words.split(" AND ") if "(" not in words else [words]:
            parts[f"({part})" if " OR " in part and "(" not in part else part] = None
    return " AND ".join(parts)

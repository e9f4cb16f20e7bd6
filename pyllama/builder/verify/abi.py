"""A patched library stays a drop-in for the stock one: libabigail's abidiff compares the two.

Only functions that public headers declare count, and only types that those headers define:
a C++ library exports thousands of names that are nobody's business. Both builds need debug
information with types (`-g`; with `-g1` abidiff sees names and nothing else).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...errors import BuildError
from ..finished import libraries

_TROUBLE = 1 | 2  # bits of abidiff's exit code: it failed, or was called wrongly


def program() -> str:
    """Return the path of abidiff; BuildError when it is not installed."""
    found = shutil.which("abidiff")
    if found is None:
        raise BuildError("abidiff was not found: install libabigail (Debian: apt-get install abigail-tools)")
    return found


def changes(stock: Path, patched: Path, functions: Iterable[str]) -> Iterator[str]:
    """Say what abidiff finds to have changed in the libraries of a build; additions are no change.

    `functions` are those that the stock build's public headers declare. Raises BuildError.
    """
    names = {path.name: path for path in libraries(patched)}
    with tempfile.TemporaryDirectory(prefix="pyllama-abi-") as folder:
        allowed = Path(folder) / "public"
        rows = "".join(f"  {name}\n" for name in sorted(functions))
        allowed.write_text(f"[abi_whitelist]\n{rows}", encoding="utf-8")
        for before in libraries(stock):
            after = names.get(before.name)
            if after is None:
                yield f"the library {before.name} is gone"
                continue
            report = _compare(before, after, stock / "include", patched / "include", allowed)
            if report is not None:
                yield f"{before.name}: {report}"


def _compare(before: Path, after: Path, old: Path, new: Path, allowed: Path) -> str | None:
    done = subprocess.run(
        [
            *(program(), "--no-added-syms", "--no-show-locs", "--kmi-whitelist", str(allowed)),
            *("--headers-dir1", str(old), "--headers-dir2", str(new), str(before), str(after)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode & _TROUBLE:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise BuildError(f"abidiff could not compare {before} with {after}: {reason}")
    return done.stdout.strip() if done.returncode else None

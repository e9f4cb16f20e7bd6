"""Where Python's own headers are, which the module is compiled with. Imports none of the generator."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from ...errors import BindingsError


def folder() -> Path:
    """Return the folder of Python.h; BindingsError when it is not there, as Debian packs it on its own."""
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").is_file():
        raise BindingsError(
            f"Python.h is not in {include}: install Python's headers (Debian: apt-get install python3-dev)"
        )
    return include

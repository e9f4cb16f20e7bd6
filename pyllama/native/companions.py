"""Libraries that a plug-in needs, the system lacks, and NVIDIA's packages of the package index hold.

They lie in `site-packages/nvidia/cu13/lib`, where the system's loader does not look. What is open already
it takes, though: so those are opened first, and only those that it has said to be missing.
"""

from __future__ import annotations

import importlib.util
import re
from contextlib import suppress
from pathlib import Path

_LIBRARY = re.compile(r"(?<![\w/.-])lib[\w+-]+\.so\.\d+(?![\w/])")


def folders() -> list[Path]:
    """Return where NVIDIA's packages have libraries, the newest toolkit first."""
    spec = None
    with suppress(ImportError, ValueError):  # a module of that name which is no package
        spec = importlib.util.find_spec("nvidia")
    places = (spec.submodule_search_locations if spec else None) or ()
    return [folder for place in places for folder in sorted(Path(place).glob("*/lib"), reverse=True)]


def packaged(reason: str) -> Path | None:
    """Return the packages' library that the system's loader misses in `reason`, its words; None for none."""
    named = _LIBRARY.search(reason)
    found = (folder / named[0] for folder in folders()) if named else ()
    return next((path for path in found if path.is_file()), None)

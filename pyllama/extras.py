"""How to get what only some need: the extras of the distribution."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "pyllama-cffi"


def install(extra: str) -> str:
    """Return the command that installs what an extra names.

    pip takes a distribution that is installed as it is, and adds what the extra asks for. One that is not
    it would seek on the index, where that name need not be ours: there the clone is what can be installed.
    """
    try:
        metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return f"pip install '.[{extra}]' in the clone"
    return f"pip install '{DISTRIBUTION}[{extra}]'"

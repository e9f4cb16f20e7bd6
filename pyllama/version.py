"""The version that was installed, a local part such as `+acme.3` with it; looked up on first use."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

_DISTRIBUTION = "pyllama-cffi"
_CHECKOUT = Path(__file__).resolve().parents[1]


def _version(distribution: str, checkout: Path) -> str:
    """Return a distribution's version; where it is not installed, what its checkout says."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        pass
    try:
        text = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:  # a copy of the package alone
        text = ""
    match = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    return match[1] if match else "0+unknown"


__version__ = _version(_DISTRIBUTION, _CHECKOUT)

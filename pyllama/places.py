"""Folders of the user that building and running share."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the cache folder: `PYLLAMA_CACHE`, or the platform's place for user caches."""
    override = os.environ.get("PYLLAMA_CACHE")
    if override:
        return Path(override).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("pyllama", appauthor=False))

"""Folders of the user that building and running share."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import UsageError


def cache_dir() -> Path:
    """Return the cache folder: `PYLLAMA_CACHE`, or the platform's place for user caches.

    Raises UsageError when it lies in the home folder of a user who has none.
    """
    import platformdirs

    try:
        override = os.environ.get("PYLLAMA_CACHE")
        if override:
            return Path(override).expanduser().absolute()
        return Path(platformdirs.user_cache_dir("pyllama", appauthor=False))
    except RuntimeError:
        raise UsageError(
            "this user has no home folder, so there is no cache folder: set PYLLAMA_CACHE or HOME"
        ) from None

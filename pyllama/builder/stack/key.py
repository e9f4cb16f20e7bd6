"""The identity of a patched tree: which bytes, in which order, on top of which tree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from .features import Feature

SCHEMA = 1
"""Raised when the same features would make another tree; old keys are then never met again."""


def key(pin_tree: str, features: Sequence[Feature], pin_name: str) -> str:
    """Return the key (sha256, hex) of `features` applied at a pin to the pristine tree `pin_tree`.

    It depends on the bytes that are applied and on nothing else: not on folders, times, titles
    or hooks of other pins. No features at all (stock) have a key too.
    """
    document = {
        "schema": SCHEMA,
        "tree": pin_tree,
        "features": [
            {
                "name": feature.name,
                "files": [[file.path, file.mode, _digest(file.data)] for file in feature.files_at(pin_name)],
                "hooks": [_digest(hook.data) for hook in feature.hooks_at(pin_name)],
            }
            for feature in features
        ],
    }
    return _digest(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

"""How llama.cpp is told what of a state to save, and where."""

from __future__ import annotations

from .errors import UsageError

_PLACES = {
    "device": "LLAMA_CHECKPOINT_DEVICE",
    "host": "LLAMA_CHECKPOINT_HOST",
    "auto": "LLAMA_CHECKPOINT_DEVICE_OR_HOST",
}
PARTIAL = 1  # LLAMA_STATE_SEQ_FLAGSPARTIAL_ONLY; the oldest pin calls it SWA_ONLY


def place_of(where: str) -> str:
    """Return llama.cpp's name of a place. Raises UsageError for one that is none."""
    found = _PLACES.get(where)
    if found is None:
        raise UsageError(f"where={where!r} is no place for a checkpoint: {', '.join(_PLACES)}")
    return found

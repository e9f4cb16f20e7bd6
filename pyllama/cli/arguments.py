"""What several commands read of their arguments in the same way."""

from __future__ import annotations

from ..errors import UsageError


def names_in(option: str, text: str) -> list[str]:
    """Return the names in a list; UsageError for none, as an unset variable in a script gives."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{option} {text!r} names nothing: give names with commas between, or leave it out")
    return names

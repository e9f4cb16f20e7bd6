"""A TOML table whose keys are all accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from ...errors import PatchError


class Table:
    """Reads typed values out of a table; `finish` refuses the keys that nobody asked for."""

    def __init__(self, values: Mapping[str, object], where: str) -> None:
        self._values = values
        self._where = where
        self._seen: set[str] = set()

    def fail(self, what: str) -> NoReturn:
        """Raise PatchError, naming the place."""
        raise PatchError(f"{self._where}: {what}")

    def names(self) -> tuple[str, ...]:
        """Return the keys, in order."""
        return tuple(self._values)

    def text(self, key: str) -> str:
        """Return a string that must not be empty."""
        value = self._get(key)
        if not isinstance(value, str) or not value.strip():
            self.fail(f"{key} must be a text that is not empty")
        return value

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Return a list of strings; without a default, the key must be there."""
        if default is not None and key not in self._values:
            return default
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self.fail(f"{key} must be a list of texts")
        return tuple(str(item) for item in value)

    def pairs(self, key: str, first: str, second: str) -> tuple[tuple[str, str], ...]:
        """Return a list of tables with two texts each; none when the key is not there."""
        value = self._values.get(key, [])
        self._seen.add(key)
        if not isinstance(value, list):
            self.fail(f"{key} must be a list of {{{first}, {second}}}")
        found: list[tuple[str, str]] = []
        for item in value:
            if not isinstance(item, dict):
                self.fail(f"{key} must be a list of {{{first}, {second}}}")
            row = Table(item, f"{self._where}, {key}")
            found.append((row.text(first), row.text(second)))
            row.finish()
        return tuple(found)

    def child(self, key: str) -> Table:
        """Return a table in this one."""
        value = self._get(key)
        if not isinstance(value, dict):
            self.fail(f"[{key}] must be a table")
        return Table(value, f"{self._where}, [{key}]")

    def finish(self, *also: str) -> None:
        """Refuse keys that were never read."""
        for key in self._values:
            if key not in self._seen and key not in also:
                self.fail(f"the key {key!r} is unknown")

    def _get(self, key: str) -> object:
        self._seen.add(key)
        if key not in self._values:
            self.fail(f"the key {key!r} is missing")
        return self._values[key]

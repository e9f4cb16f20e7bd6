"""What lint has to say of one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One fault; `line` counts from 1 and is 0 when the whole file or feature is meant."""

    level: Literal["error", "warning"]
    rule: str
    feature: str
    file: str
    """Below the folder of the series."""
    line: int
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.level}: {self.message} [{self.rule}]"


@dataclass(frozen=True)
class Place:
    """A file of a feature, as findings name it."""

    series: Path
    feature: str
    file: str

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.series / self.file

    def error(self, rule: str, message: str, line: int = 0) -> Finding:
        """Return a finding that must be dealt with."""
        return Finding("error", rule, self.feature, self.file, line, message)

    def warning(self, rule: str, message: str, line: int = 0) -> Finding:
        """Return a finding to think about."""
        return Finding("warning", rule, self.feature, self.file, line, message)

"""Features: what one is, and how a set of them is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...errors import UsageError
from .hooks import Hook


@dataclass(frozen=True)
class Symbol:
    """A function that a built library must export."""

    library: str
    name: str


@dataclass(frozen=True)
class Needle:
    """A piece of text that a file of the patched tree must hold."""

    file: str
    text: str


@dataclass(frozen=True)
class Contract:
    """What must be in the patched headers, the built libraries and the bindings."""

    symbols: tuple[Symbol, ...] = ()
    macros: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    needles: tuple[Needle, ...] = ()
    tests: tuple[str, ...] = ()


@dataclass(frozen=True)
class PinEntry:
    """How a feature stands at one pin: served by hooks, upstream already, or not applicable."""

    kind: Literal["hooks", "upstream", "not-applicable"]
    hooks: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class SourceFile:
    """A new file of a feature: its path in the tree, git's mode, its bytes."""

    path: str
    mode: Literal["100644", "100755"]
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Feature:
    """One unit of the stack, with everything that it applies."""

    name: str
    folder: Path
    title: str
    description: str
    origin: tuple[str, ...]
    upstream_status: str
    license: str
    requires: tuple[str, ...]
    conflicts: tuple[str, ...]
    contract: Contract
    pins: Mapping[str, PinEntry]
    files: tuple[SourceFile, ...]
    hooks: Mapping[str, Hook] = field(repr=False)

    def at(self, pin: str) -> PinEntry:
        """Return how the feature stands at `pin`; one that it does not name is not applicable."""
        return self.pins.get(pin) or PinEntry("not-applicable", reason=f"it has no entry for pin {pin}")

    def hooks_at(self, pin: str) -> tuple[Hook, ...]:
        """Return the hooks that serve `pin`, in order."""
        return tuple(self.hooks[name] for name in self.at(pin).hooks)

    def files_at(self, pin: str) -> tuple[SourceFile, ...]:
        """Return the files that are added at `pin`: none where upstream has the feature."""
        return self.files if self.at(pin).kind == "hooks" else ()


@dataclass(frozen=True)
class Stack:
    """All features, in the order in which they apply."""

    features: tuple[Feature, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features, in order."""
        return tuple(feature.name for feature in self.features)

    def __getitem__(self, name: str) -> Feature:
        for feature in self.features:
            if feature.name == name:
                return feature
        raise UsageError(f"there is no feature {name!r}: known are {', '.join(self.names) or 'none'}")


def select(stack: Stack, pin: str, wanted: str | Sequence[str]) -> tuple[Feature, ...]:
    """Return the features that are wanted at `pin` ("all", "none" or names), with what they require.

    Their order is the series'. With "all", those that do not apply at the pin are left out, and
    so is what requires them. Raises UsageError when names are unknown or can't go together.
    """
    if wanted == "none":
        return ()
    if wanted == "all":
        chosen: dict[str, None] = {}
        for feature in stack.features:
            if feature.at(pin).kind != "not-applicable" and all(name in chosen for name in feature.requires):
                chosen[feature.name] = None
    else:
        asked = [wanted] if isinstance(wanted, str) else list(wanted)
        chosen = {}
        for name in asked:
            _close(stack, pin, name, name, chosen)
    picked = tuple(feature for feature in stack.features if feature.name in chosen)
    for feature in picked:
        for other in feature.conflicts:
            if other in chosen:
                raise UsageError(f"features {feature.name} and {other} conflict: choose one of them")
    return picked


def _close(stack: Stack, pin: str, name: str, asked: str, chosen: dict[str, None]) -> None:
    entry = stack[name].at(pin)
    if entry.kind == "not-applicable":
        via = "" if name == asked else f", which {asked} requires,"
        raise UsageError(f"feature {name}{via} does not apply to pin {pin}: {entry.reason}")
    for needed in stack[name].requires:
        _close(stack, pin, needed, asked, chosen)
    chosen[name] = None

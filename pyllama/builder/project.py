"""Lock and stack together, as this process sees them: ours, and what a fork carries on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from . import pins
from .fetch import pristine
from .paths import Paths
from .pins import Lock, Pin
from .progress import Reporter
from .stack import features, series
from .stack.features import Feature, Stack
from .tree import TreeStore


@dataclass(frozen=True)
class Project:
    """What can be built: every pin and every feature."""

    paths: Paths
    lock: Lock
    stack: Stack

    def pin(self, name: str | None = None) -> Pin:
        """Return a pin, or the default one; UsageError when there is none such."""
        return self.lock.pin(name)

    def select(self, pin: Pin, wanted: str | Sequence[str]) -> tuple[Feature, ...]:
        """Return the features that are wanted at a pin, in order, with what they require."""
        return features.select(self.stack, pin.name, wanted)

    def store_with(self, pin: Pin, reporter: Reporter) -> TreeStore:
        """Return the object store with the pin's tree in it, fetched when need be."""
        if not pristine.cached(pin, self.paths):
            pristine.fetch(pin, self.paths, reporter=reporter)
        return TreeStore(self.paths.objects)


def load(paths: Paths) -> Project:
    """Read and check locks and series."""
    held = lock(paths)
    return Project(paths, held, serving(series.load(paths.patches, *paths.on_top), held))


def lock(paths: Paths) -> Lock:
    """Read the lock, with the pins that a series on top adds in a `pins.toml` of its own."""
    added = (folder / "pins.toml" for folder in paths.on_top)
    return pins.load(paths.pins, *(path for path in added if path.is_file()))


def serving(stack: Stack, held: Lock) -> Stack:
    """Return the stack in which a feature serves a pin that is `like` another as it serves that one.

    An entry of its own for the pin goes first.
    """
    return Stack(tuple(_serving(feature, held) for feature in stack.features))


def _serving(feature: Feature, held: Lock) -> Feature:
    entries = dict(feature.pins)
    for pin in held.pins:  # a pin comes after the one that it is like
        if pin.like is not None and pin.name not in entries and pin.like in entries:
            entries[pin.name] = entries[pin.like]
    return replace(feature, pins=MappingProxyType(entries))

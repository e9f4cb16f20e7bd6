"""A dry-run export: every hook, composed again, must come out as it is carried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from ...errors import PatchError
from ..stack.compose import Composer, composing
from ..stack.diffs import diff
from ..stack.features import Feature, PinEntry
from ..stack.hooks import Hook, parse
from ..tree import TreeStore


@dataclass(frozen=True)
class Recomposed:
    """A hook as git writes it at a pin."""

    feature: str
    hook: Hook
    pin: str
    fresh: Hook

    @property
    def exact(self) -> bool:
        """Whether every byte is the same, what stands before the first diff aside."""
        return self.hook.data.removeprefix(self.hook.lead) == self.fresh.data

    @property
    def same_changes(self) -> bool:
        """Whether the same lines change in the same surroundings, wherever in the file that is."""
        return self.hook.same_as(self.fresh)


def recompose(
    features: Sequence[Feature], pin: str, tree: str, store: TreeStore
) -> Iterator[Recomposed | PatchError]:
    """Apply `features`, in order, hook by hook, and yield each hook as git writes it then.

    A feature that does not apply gives the error and is left out.
    """
    with composing(store, tree, pin, keep=False) as composer:
        for feature in features:
            before = composer.tree
            try:
                yield from _hooks(composer, feature, pin)
            except PatchError as error:
                composer.reset(before)
                yield error


def _hooks(composer: Composer, feature: Feature, pin: str) -> Iterator[Recomposed]:
    if feature.at(pin).kind != "hooks":
        return
    if feature.files:
        composer.add(_only(feature, pin, ()))
    for hook in feature.hooks_at(pin):
        before = composer.tree
        composer.add(replace(_only(feature, pin, (hook.name,)), files=()))
        fresh = diff(composer.git, before, composer.tree)
        yield Recomposed(feature.name, hook, pin, parse(hook.name, fresh, f"{feature.name}, {hook.name}"))


def _only(feature: Feature, pin: str, hooks: tuple[str, ...]) -> Feature:
    pins: Mapping[str, PinEntry] = MappingProxyType({pin: PinEntry("hooks", hooks)})
    return replace(feature, pins=pins)

"""Which backends this process uses: those of the build and of installed plug-ins that work here.

`PYLLAMA_BACKENDS` names the only ones to take, and then each must work; without it, one that does not
is left out, with a warning that says why. An installed plug-in of another build is refused always.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from ..errors import LoadError
from . import plugins, probe
from .installed import BuildInfo
from .log import logger
from .plugins import Plugin

VARIABLE = "PYLLAMA_BACKENDS"
NO_DEVICE = "it finds no device here"
# They have no devices until somebody names a server.
REMOTE = ("rpc",)


def register(build: BuildInfo, load: Callable[[Path], None]) -> dict[str, str]:
    """Load the plug-ins that this process uses; return the names of the others, with the reason.

    Raises LoadError when one that the user named is not there or does not work.
    """
    there = plugins.names(build)
    wanted = named()
    for name in wanted or ():
        if name not in there:
            have = ", ".join(["cpu", *there])
            raise LoadError(
                f"{VARIABLE} names {name!r}, and there is no such backend (there is {have}): "
                f"`pyllama build --backend {name}`, or correct {VARIABLE}"
            )
    skipped = {
        name: f"{VARIABLE} does not name it" for name in there if wanted is not None and name not in wanted
    }
    for plugin in plugins.find(build, wanted):
        name = plugin.backend
        stranger = plugins.mismatch(plugin, build)
        if stranger:
            raise LoadError(stranger)
        verdict = probe.probe(plugin, build.folder)
        reason = verdict.reason or _loaded(plugin, build, verdict, load)
        if not reason:
            continue
        if wanted is not None:
            raise LoadError(f"the backend {name}, which {VARIABLE} names, does not work: {reason}")
        skipped[name] = reason
        if reason == NO_DEVICE:
            logger.info("the backend %s is not used: %s", name, reason)
            continue
        warnings.warn(
            f"the backend {name} ({plugin.source}) is not used: {reason}; "
            f"`pyllama devices --explain` says more, {VARIABLE}=cpu leaves it out silently",
            RuntimeWarning,
            stacklevel=2,
        )
    return skipped


def _loaded(plugin: Plugin, build: BuildInfo, verdict: probe.Verdict, load: Callable[[Path], None]) -> str:
    """Load a plug-in that worked when it was tried; return why that cannot be, or nothing."""
    if not verdict.devices and plugin.backend not in REMOTE:
        return NO_DEVICE
    try:
        load(plugin.path)
    except LoadError as error:  # it worked then: what it needs has gone meanwhile
        probe.forget(plugin, build.folder)
        return str(error)
    return ""


def named() -> list[str] | None:
    """Return the backends that the user wants beside the CPU, or None for all."""
    text = os.environ.get(VARIABLE)
    if text is None or not text.strip():
        return None
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    return [name for name in dict.fromkeys(names) if name not in ("cpu", "cpu-all")]

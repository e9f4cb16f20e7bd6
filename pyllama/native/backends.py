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

VARIABLE = "PYLLAMA_BACKENDS"
# They have no devices until somebody names a server.
_REMOTE = ("rpc",)


def register(build: BuildInfo, load: Callable[[Path], None]) -> dict[str, str]:
    """Load the plug-ins that this process uses; return the names of the others, with the reason.

    Raises LoadError when one that the user named is not there or does not work.
    """
    found = {plugin.backend: plugin for plugin in plugins.find(build)}
    wanted = named()
    for name in wanted or ():
        if name not in found:
            have = ", ".join(["cpu", *found])
            raise LoadError(
                f"{VARIABLE} names {name!r}, and there is no such backend (there is {have}): "
                f"`pyllama build --backend {name}`, or correct {VARIABLE}"
            )
    skipped = {}
    for name, plugin in found.items():
        if wanted is not None and name not in wanted:
            skipped[name] = f"{VARIABLE} does not name it"
            continue
        stranger = plugins.mismatch(plugin, build)
        if stranger:
            raise LoadError(stranger)
        verdict = probe.probe(plugin, build.folder)
        if not verdict.usable:
            if wanted is not None:
                raise LoadError(
                    f"the backend {name}, which {VARIABLE} names, does not work: {verdict.reason}"
                )
            skipped[name] = verdict.reason
            warnings.warn(
                f"the backend {name} ({plugin.source}) is not used: {verdict.reason}; "
                f"`pyllama devices --explain` says more, {VARIABLE}=cpu leaves it out silently",
                RuntimeWarning,
                stacklevel=2,
            )
        elif not verdict.devices and name not in _REMOTE and wanted is None:
            skipped[name] = "it finds no device here"
            logger.info("the backend %s is not used: it finds no device here", name)
        else:
            load(plugin.path)
    return skipped


def named() -> list[str] | None:
    """Return the backends that the user wants beside the CPU, or None for all."""
    text = os.environ.get(VARIABLE)
    if text is None or not text.strip():
        return None
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    return [name for name in dict.fromkeys(names) if name not in ("cpu", "cpu-all")]

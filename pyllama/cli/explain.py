"""Why a backend is there or not: what was built, what loads, what it finds, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..builder import project
from ..builder.compile import needs
from ..builder.compile.backends import Backend, table
from ..builder.compile.toolchain import find_compilers
from ..builder.paths import locate
from ..errors import BuildError, Error, LoadError
from ..native import backends, plugins, probe
from ..native.installed import BuildInfo


@dataclass(frozen=True)
class Explanation:
    """One backend on this machine."""

    backend: str
    title: str
    state: str
    """`used`, `no device`, `broken`, `off`, `not built`, `cannot be built` or `not for this system`."""
    devices: tuple[str, ...]
    advice: str
    """What to do about it; empty when nothing is wrong."""


def explain(build: BuildInfo) -> list[Explanation]:
    """Say of every backend what it is here; all are tried anew, each in a process of its own."""
    there = plugins.names(build)
    told = []
    for row in table().values():
        if row.name in build.backends and row.kind == "cpu":
            told.append(_core(row, probe.core(build.folder)))
        elif row.name in there:
            told.append(_there(row.name, row, build))
        else:
            told.append(_not_built(row, build, there))
    return told + [_there(name, None, build) for name in there if name not in table()]


def _core(row: Backend, verdict: probe.Verdict) -> Explanation:
    state = "used" if verdict.usable else "broken"
    return Explanation(row.name, row.title, state, verdict.devices, verdict.reason)


def _there(name: str, row: Backend | None, build: BuildInfo) -> Explanation:
    """Try a plug-in; `row` is None for a backend that is not in our table."""
    title = row.title if row else "a backend of another distribution"
    try:
        (plugin,) = plugins.find(build, [name])
        fault = plugins.mismatch(plugin, build)
    except LoadError as error:
        fault = str(error)
    if fault:
        return Explanation(name, title, "broken", (), fault)
    verdict = probe.probe(plugin, build.folder, fresh=True)
    named = backends.named()
    if not verdict.usable:
        return Explanation(name, title, "broken", (), _broken(row, verdict.reason))
    if named is not None and name not in named:
        return Explanation(name, title, "off", verdict.devices, f"{backends.VARIABLE} does not name it")
    if not verdict.devices:
        return Explanation(
            name, title, "no device", (), f"it needs {row.device}" if row else backends.NO_DEVICE
        )
    return Explanation(name, title, "used", verdict.devices, "")


def _broken(row: Backend | None, reason: str) -> str:
    """Return the reason, and who gives the library that it names."""
    givers = row.runs_with if row else ()
    lacking = next((advice for library, advice in givers if library in reason), "")
    return f"{reason} ({lacking})" if lacking else reason


def _not_built(row: Backend, build: BuildInfo, there: Sequence[str]) -> Explanation:
    if not row.builds_here:
        where = ", ".join(row.systems)
        return Explanation(row.name, row.title, "not for this system", (), f"it is for {where}")
    command = f"{_command(row, build, there)}, and set PYLLAMA_BUILD to the folder that it prints"
    try:
        lacking = needs.missing(row, find_compilers())
    except BuildError as error:
        return Explanation(row.name, row.title, "cannot be built", (), str(error))
    if lacking:
        advice = f"{'; '.join(map(str, lacking))}; then {command}"
        return Explanation(row.name, row.title, "cannot be built", (), advice)
    return Explanation(row.name, row.title, "not built", (), command)


def _command(row: Backend, build: BuildInfo, there: Sequence[str]) -> str:
    """Return what makes the same build with one backend more; a CPU takes the place of the other one."""
    cpus = [name for name in build.backends if row.kind != "cpu" and name == "cpu-all"]
    others = [name for name in there if name in table()]
    words = ["pyllama", "build", "--pin", build.pin, *_features(build)]
    return " ".join([*words, "--backend", ",".join([*cpus, *others, row.name])])


def _features(build: BuildInfo) -> list[str]:
    """Return the options that choose the features of a build; none when it has all that its pin can have."""
    if not build.features:
        return ["--none"]
    with suppress(Error):  # a pin, or features, of a series that is not here
        opened = project.load(locate())
        every = opened.select(opened.pin(build.pin), "all")
        if {feature.name for feature in every} == set(build.features):
            return []
    return ["--features", ",".join(build.features)]

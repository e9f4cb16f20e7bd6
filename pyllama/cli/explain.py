"""Why a backend is there or not: what was built, what loads, what it finds, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass

from ..builder.compile import needs
from ..builder.compile.backends import Backend, table
from ..builder.compile.toolchain import find_compilers
from ..errors import BuildError
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
    """Say of every backend what it is here; plug-ins are tried anew, each in a process of its own.

    Raises LoadError for a damaged plug-in package.
    """
    found = {plugin.backend: plugin for plugin in plugins.find(build)}
    named = backends.named()
    told = []
    for row in table().values():
        if row.name in build.backends and row.kind == "cpu":
            told.append(Explanation(row.name, row.title, "used", ("CPU",), ""))
        elif row.name in found:
            verdict = probe.probe(found[row.name], build.folder, fresh=True)
            off = named is not None and row.name not in named
            told.append(_built(row, verdict, off))
        else:
            told.append(_not_built(row, build))
    for name in found.keys() - table().keys():
        verdict = probe.probe(found[name], build.folder, fresh=True)
        state = "used" if verdict.usable else "broken"
        told.append(Explanation(name, found[name].source, state, verdict.devices, verdict.reason))
    return told


def _built(row: Backend, verdict: probe.Verdict, off: bool) -> Explanation:
    if not verdict.usable:
        return Explanation(row.name, row.title, "broken", (), _broken(row, verdict.reason))
    if off:
        advice = f"{backends.VARIABLE} does not name it"
        return Explanation(row.name, row.title, "off", verdict.devices, advice)
    if not verdict.devices:
        return Explanation(row.name, row.title, "no device", (), f"it needs {row.device}")
    return Explanation(row.name, row.title, "used", verdict.devices, "")


def _broken(row: Backend, reason: str) -> str:
    """Return the reason, and who gives the library that it names."""
    lacking = next((advice for library, advice in row.runs_with if library in reason), "")
    return f"{reason} ({lacking})" if lacking else reason


def _not_built(row: Backend, build: BuildInfo) -> Explanation:
    if not row.builds_here:
        where = ", ".join((*row.systems, *row.machines))
        return Explanation(row.name, row.title, "not for this system", (), f"it is for {where}")
    kept = [name for name in build.backends if row.kind != "cpu" and name != "cpu"]
    command = f"pyllama build --pin {build.pin} --backend {','.join([*kept, row.name])}"
    try:
        lacking = needs.missing(row, find_compilers())
    except BuildError as error:
        return Explanation(row.name, row.title, "cannot be built", (), str(error))
    if lacking:
        advice = f"{'; '.join(map(str, lacking))}; then {command}"
        return Explanation(row.name, row.title, "cannot be built", (), advice)
    return Explanation(row.name, row.title, "not built", (), command)

"""Compile a patched tree with Ninja, and collect what came out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ...errors import BuildError
from .. import finished
from ..paths import Paths
from ..plan import Plan
from ..progress import Reporter
from ..stack.apply import PatchedTree
from . import backends, ninja
from .configure import CHAT_TARGET, CORE_TARGETS, configured
from .toolchain import Toolchain


@dataclass(frozen=True)
class Core:
    """What the core was compiled with."""

    variant: str
    options: dict[str, str]
    plugins: tuple[str, ...]
    """File names of the backends' libraries, without prefix and suffix."""


def compile_core(
    patched: PatchedTree,
    wanted: Plan,
    paths: Paths,
    tools: Toolchain,
    out: Path,
    identity: str,
    reporter: Reporter,
) -> Core:
    """Compile core and plug-ins, and collect libraries, public headers and licences in `out`."""
    with configured(patched, wanted, paths, tools, identity, reporter) as made:
        # ggml depends on every backend that is configured, so a pattern needs no list here.
        plain = [row.target for row in wanted.backends if "*" not in row.target]
        ours = [*CORE_TARGETS, CHAT_TARGET] if wanted.chat else CORE_TARGETS
        _compile(made.folder, [*ours, *plain], tools, reporter)
        _collect_libraries(made.folder, ours, out / "lib")
        plugins = _collect_libraries(made.folder, [row.library for row in wanted.backends], out / "lib")
    _collect_headers(patched.folder, out / "include")
    _collect_licenses(patched.folder, out / "licenses")
    return Core(made.variant, made.options, tuple(plugins))


def add_targets(
    patched: PatchedTree,
    wanted: Plan,
    paths: Paths,
    tools: Toolchain,
    out: Path,
    targets: list[str],
    reporter: Reporter,
) -> None:
    """Compile more of upstream's targets and add what they give, and need, to a finished build."""
    identity = finished.read(out)["identity"]
    with configured(patched, wanted, paths, tools, identity, reporter) as made:
        before = _products(made.folder)
        _compile(made.folder, targets, tools, reporter)
        products = _products(made.folder)
        # One that was compiled earlier is not new: a library may be needed, a program bears its name.
        earlier = {p for p in before if p.suffix in finished.SUFFIXES or p.stem in targets}
        for product in sorted((products - before) | earlier):
            if not _is_plugin(product):  # of this build they are there, and others are not asked for
                finished.add(product, out)


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def _compile(folder: Path, targets: list[str], tools: Toolchain, reporter: Reporter) -> None:
    with reporter.stage("compile") as stage:
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(available_cpus())
        command = [tools.ninja, "-C", str(folder), "-j", jobs, *targets]
        ninja.run(command, folder / "pyllama-compile.log", stage, "compiling")
        stage.note = ", ".join(targets)


def _products(folder: Path) -> set[Path]:
    return {p for p in (folder / "bin").glob("*") if p.is_file()}


def _is_plugin(product: Path) -> bool:
    stem = product.stem.removeprefix("lib")
    return any(fnmatchcase(stem, row.library) for row in backends.table().values())


def _collect_headers(tree: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    mtmd = tree / "tools" / "mtmd"
    found = [*(tree / "include").glob("*.h"), *(tree / "ggml" / "include").glob("*.h")]
    found += [mtmd / "mtmd.h", mtmd / "mtmd-helper.h"]
    for header in found:
        shutil.copyfile(header, out / header.name)


def _collect_licenses(tree: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(tree / "LICENSE", out / "LICENSE-llama.cpp")
    for text in (tree / "licenses").glob("LICENSE-*"):
        shutil.copyfile(text, out / text.name)


def _collect_libraries(folder: Path, names: Iterable[str], out: Path) -> list[str]:
    """Copy libraries, of which a name may hold a `*`, and return the names of those found."""
    out.mkdir(parents=True, exist_ok=True)
    found = {p: p.stem.removeprefix("lib") for p in _products(folder) if p.suffix in finished.SUFFIXES}
    collected = []
    for name in names:
        matches = sorted(path for path, stem in found.items() if fnmatchcase(stem, name))
        if not matches:
            raise BuildError(f"the build gave no library {name!r}: see {folder / 'pyllama-compile.log'}")
        for match in matches:
            shutil.copy2(match, out / match.name)
            collected.append(found[match])
    return collected

"""From a plan to a finished build in the cache.

A finished build is a folder `<pin>-<key>` with `build.json` (written last), `lib/`,
`include/` and `python/`. The key says everything that decides its content, so a build that
is there is never made again, and machines with other CPUs never share one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import BuildError
from . import exporting, finished, provenance
from .bindgen import python_headers
from .compile import toolchain
from .compile.core import add_targets, compile_core
from .compile.toolchain import Toolchain
from .fetch.pristine import fetch
from .finished import Build
from .locks import locked
from .paths import Paths
from .plan import SCHEMA, Plan
from .progress import Reporter
from .stack.apply import PatchedTree, apply, home
from .tree import TreeStore
from .verify import contract


def folder_of(paths: Paths, wanted: Plan) -> Path:
    """Return the folder in the cache that the build of a plan has or would have."""
    return paths.builds / f"{wanted.pin.name}-{wanted.key[:16]}"


def build(
    paths: Paths,
    wanted: Plan,
    reporter: Reporter,
    *,
    targets: list[str] | None = None,
    use_cache: bool = True,
    export: Path | None = None,
) -> Build:
    """Return the finished build of a plan, making it when the cache does not hold it.

    `targets` are upstream programs or libraries beside the core (`llama-simple`, `mtmd`):
    they are compiled in the same tree and added to the build's `bin/` or `lib/`. With
    `export`, the build is copied into that folder as well, and `targets` with it.
    """
    folder = folder_of(paths, wanted)
    with locked(paths, f"build-{folder.name}", reporter, BuildError):
        cached = use_cache and finished.is_complete(folder)
        missing = [t for t in targets or [] if not (cached and finished.files_of(folder, t))]
        if missing or not cached:
            # First, as nobody should wait for what cannot come to its end.
            tools = toolchain.find()
            python_headers.folder()
            patched = _patched(paths, wanted, reporter)
            if not cached:
                _make(paths, wanted, patched, tools, folder, reporter)
            if missing:
                add_targets(patched, wanted, paths, tools, folder, missing, reporter)
                provenance.add(folder, patched.folder)
        elif (home(paths, wanted.pin.name, wanted.tree_key) / "tree").is_dir():
            # A tree that was edited is refused, not passed over because its build is there.
            _patched(paths, wanted, reporter)
        done = Build(folder, finished.read(folder), cached)
        if targets:  # not only when one was missing: an older pyllama may have added it
            finished.link_plugins(folder, done.info)
        if export is not None:
            exporting.export(done, export, targets or [])
    return done


def _patched(paths: Paths, wanted: Plan, reporter: Reporter) -> PatchedTree:
    store = TreeStore(paths.objects)
    if wanted.pin.tree not in store:
        fetch(wanted.pin, paths, reporter=reporter)
    return apply(wanted.pin.name, wanted.pin.tree, wanted.features, paths, store, reporter)


def _make(
    paths: Paths, wanted: Plan, patched: PatchedTree, tools: Toolchain, folder: Path, reporter: Reporter
) -> None:
    identity = _identity(wanted)
    paths.builds.mkdir(parents=True, exist_ok=True)
    for rest in paths.builds.glob(f".{folder.name}.*"):  # of a process that was killed
        shutil.rmtree(rest, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=paths.builds) as scratch:
        out = Path(scratch) / "build"
        core = compile_core(patched, wanted, paths, tools, out, identity, reporter)
        shutil.copytree(
            _bindings(patched, wanted, out / "include", tools, identity, reporter), out / "python"
        )
        for feature in wanted.features:
            contract.check(feature, wanted.pin.name, patched.folder, out)
        provenance.write(out, wanted.pin, wanted.features, patched, TreeStore(paths.objects))
        info: dict[str, Any] = {
            "schema": SCHEMA,
            "pin": wanted.pin.name,
            "commit": wanted.pin.commit,
            "tree": patched.tree,
            "key": wanted.tree_key,
            "build_key": wanted.key,
            "features": [feature.name for feature in wanted.features],
            "backends": [row.name for row in wanted.backends],
            "plugins": list(core.plugins),
            "flavour": wanted.flavour,
            "cpu": core.variant,
            "compiler": tools.compilers.identity,
            "options": core.options,
            "identity": identity,
        }
        finished.finish(out, info, folder)


def _bindings(
    patched: PatchedTree, wanted: Plan, include: Path, tools: Toolchain, identity: str, reporter: Reporter
) -> Path:
    """Return a folder with the bindings, made once per tree: they are the same for all backends."""
    # Here, not above: parsers that a build in the cache has no need of.
    from .bindgen import generate
    from .bindgen.fingerprint import fingerprint

    parts = [identity, fingerprint(), tools.compilers.identity, wanted.flavour, sys.version]
    name = f"bindings-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"
    folder = patched.folder.parent / name
    if not folder.is_dir():
        with (
            reporter.stage("bind") as stage,
            tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder.parent) as scratch,
        ):
            fresh = Path(scratch) / "python"
            made = generate.generate(include, fresh, tools.compilers.cc, identity)
            stage.note = f"{made.functions} functions"
            with suppress(OSError):  # another process was faster
                fresh.rename(folder)
    return folder


def _identity(wanted: Plan) -> str:
    """Return what module and libraries say about themselves: they must say the same."""
    words = {
        "pin": wanted.pin.name,
        "commit": wanted.pin.commit,
        "key": wanted.tree_key,
        "features": [feature.name for feature in wanted.features],
    }
    return json.dumps(words, sort_keys=True)

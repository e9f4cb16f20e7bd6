"""From a pin and a choice of features and backends to a finished build in the cache.

A finished build is a folder `<pin>-<key>` with `build.json` (written last), `lib/`,
`include/` and `python/`. The key says everything that decides its content, so a build that
is there is never made again, and machines with other CPUs never share one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import BuildError, UsageError
from .bindgen import generate
from .compile import toolchain
from .compile.core import add_targets, compile_core
from .fetch.pristine import fetch
from .paths import Paths
from .plan import SCHEMA, Plan
from .progress import Reporter
from .stack.apply import PatchedTree, apply, home
from .tree import TreeStore


@dataclass(frozen=True)
class Build:
    """A finished build."""

    folder: Path
    info: dict[str, Any]
    cached: bool


def finished(paths: Paths, key: str, pin: str) -> Path:
    """Return the folder in the cache that a build with this key has or would have."""
    return paths.builds / f"{pin}-{key[:16]}"


def is_complete(folder: Path) -> bool:
    """Say whether every file that `build.json` lists is there with its size."""
    try:
        info = json.loads((folder / "build.json").read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in info["files"].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def build(
    paths: Paths,
    wanted: Plan,
    reporter: Reporter,
    *,
    targets: list[str] | None = None,
    use_cache: bool = True,
) -> Build:
    """Return the finished build of a plan, making it when the cache does not hold it.

    `targets` are upstream programs or libraries beside the core (`llama-simple`, `mtmd`):
    they are compiled in the same tree and added to the build's `bin/` or `lib/`.
    """
    folder = finished(paths, wanted.key, wanted.pin.name)
    paths.locks.mkdir(parents=True, exist_ok=True)
    with FileLock(paths.locks / f"build-{folder.name}.lock"):
        missing = [t for t in targets or [] if not _has_target(folder, t)]
        if use_cache and is_complete(folder):
            tree = home(paths, wanted.pin.name, wanted.tree_key) / "tree"
            if missing or tree.is_dir():
                patched = _patched(paths, wanted, reporter)  # refuses a tree that was edited
            if missing:
                add_targets(patched, wanted, toolchain.find(), folder, missing, reporter)
            return Build(folder, _info(folder), cached=True)
        patched = _patched(paths, wanted, reporter)
        _make(paths, wanted, patched, folder, reporter)
        if targets:
            add_targets(patched, wanted, toolchain.find(), folder, targets, reporter)
        return Build(folder, _info(folder), cached=False)


def _patched(paths: Paths, wanted: Plan, reporter: Reporter) -> PatchedTree:
    store = TreeStore(paths.objects)
    if wanted.pin.tree not in store:
        fetch(wanted.pin, paths, reporter=reporter)
    return apply(wanted.pin.name, wanted.pin.tree, wanted.features, paths, store, reporter)


def _make(paths: Paths, wanted: Plan, patched: PatchedTree, folder: Path, reporter: Reporter) -> None:
    tools = toolchain.find()
    identity = _identity(wanted)
    paths.builds.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=paths.builds) as scratch:
        out = Path(scratch) / "build"
        core = compile_core(patched, wanted, tools, out, identity, reporter)
        with reporter.stage("bind") as stage:
            made = generate.generate(out / "include", out / "python", tools.cc, identity)
            stage.note = f"{made.functions} functions"
        info: dict[str, Any] = {
            "schema": SCHEMA,
            "pin": wanted.pin.name,
            "commit": wanted.pin.commit,
            "tree": patched.tree,
            "key": wanted.tree_key,
            "build_key": wanted.key,
            "features": [feature.name for feature in wanted.features],
            "backends": [row.name for row in wanted.backends],
            "flavour": wanted.flavour,
            "cpu": core.variant,
            "compiler": tools.identity,
            "options": core.options,
            "identity": identity,
        }
        info["files"] = {
            p.relative_to(out).as_posix(): p.stat().st_size for p in sorted(out.rglob("*")) if p.is_file()
        }
        (out / "build.json").write_text(json.dumps(info, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        if folder.exists():  # incomplete or asked to be made again
            shutil.rmtree(folder)
        os.rename(out, folder)


def _identity(wanted: Plan) -> str:
    """Return what module and libraries say about themselves: they must say the same."""
    words = {
        "pin": wanted.pin.name,
        "commit": wanted.pin.commit,
        "key": wanted.tree_key,
        "features": [feature.name for feature in wanted.features],
    }
    return json.dumps(words, sort_keys=True)


def _has_target(folder: Path, target: str) -> bool:
    names = [
        folder / "bin" / target,
        folder / "bin" / f"{target}.exe",
        *(folder / "lib").glob(f"*{target}.*"),
    ]
    return any(name.is_file() for name in names)


def _info(folder: Path) -> dict[str, Any]:
    try:
        info: dict[str, Any] = json.loads((folder / "build.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{folder} is not a finished build: remove it and build again") from error
    return info


def export(done: Build, folder: Path) -> None:
    """Copy a finished build to `folder`, replacing a build that is there.

    Raises UsageError when something else is there: it is not ours to remove.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "build.json").is_file():
        raise UsageError(f"{folder} holds something that is not a build: name an empty or a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        fresh = Path(scratch) / "build"
        shutil.copytree(done.folder, fresh, symlinks=True)
        if folder.exists():
            os.rename(folder, Path(scratch) / "old")
        os.rename(fresh, folder)

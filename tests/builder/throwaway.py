"""Throw-away upstream trees and patch series, made in a temporary folder."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyllama.builder.paths import Paths
from pyllama.builder.progress import Reporter
from pyllama.builder.stack.apply import PatchedTree, apply
from pyllama.builder.stack.features import Stack, select
from pyllama.builder.stack.series import load
from pyllama.builder.tree import TreeStore

PIN = "2026-10"
MAIN = "".join(f"line {number}\n" for number in range(1, 31))
UPSTREAM = {
    "src/main.cpp": MAIN,
    "src/other.cpp": "a\nb\nc\nd\ne\nf\n",
    "include/llama.h": "#pragma once\nint llama(void);\n",
    "CMakeLists.txt": "project(x)\n",
    "docs/read me.md": "one\ntwo\n",
}


def diff(path: str, old: str, new: str) -> str:
    """Return the diff of one file as git would write it."""
    body = difflib.unified_diff(old.splitlines(True), new.splitlines(True), f"a/{path}", f"b/{path}")
    return f"diff --git a/{path} b/{path}\n" + "".join(body)


def change(line: int, text: str, base: str = MAIN, path: str = "src/main.cpp") -> str:
    """Return a hook that replaces one line (counted from 1) of a file."""
    return diff(path, base, changed(line, text, base))


def changed(line: int, text: str, base: str = MAIN) -> str:
    """Return `base` with one line replaced."""
    lines = base.splitlines(True)
    lines[line - 1] = text + "\n"
    return "".join(lines)


@dataclass
class World:
    """An upstream tree in a store, a series, and folders to work in."""

    root: Path
    store: TreeStore
    tree: str

    @property
    def paths(self) -> Paths:
        """The folders of this world."""
        root = self.root
        return Paths(
            root / "vendor/pins.toml", root / "patches", root / "vendor", root / "build", root / "cache"
        )

    @property
    def patches(self) -> Path:
        """The folder of the series."""
        return self.root / "patches"

    def stack(self) -> Stack:
        """Read the series."""
        return load(self.patches)

    def apply(self, wanted: str | list[str] = "all") -> PatchedTree:
        """Apply the features that are wanted."""
        chosen = select(self.stack(), PIN, wanted)
        return apply(PIN, self.tree, chosen, self.paths, self.store, Reporter(quiet=True))

    def leftovers(self) -> list[str]:
        """Return what lies in the build folder, apart from locks, trees, indexes and stamps."""
        good = {"tree", "tree.index", "tree.json"}
        return [
            entry.name
            for place in self.paths.build.iterdir()
            if place.is_dir()
            for entry in place.iterdir()
            if entry.name not in good
        ]

    def feature(
        self,
        name: str,
        hooks: Mapping[str, str | bytes] | None = None,
        files: Mapping[str, str] | None = None,
        pin: str | None = None,
        extra: str = "",
        requires: Iterable[str] = (),
        conflicts: Iterable[str] = (),
    ) -> Path:
        """Add a feature to the series; `pin` is the whole entry of PIN, `extra` leads feature.toml."""
        folder = self.patches / name
        (folder / "hooks").mkdir(parents=True)
        for file, body in (hooks or {}).items():
            data = body if isinstance(body, bytes) else body.encode()
            (folder / "hooks" / file).write_bytes(data)
        for file, text in (files or {}).items():
            place = folder / "files" / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        entry = pin or f"hooks = {json.dumps([f'hooks/{file}' for file in hooks or {}])}"
        (folder / "feature.toml").write_text(
            f"{extra}\n"
            f'title = "About {name}"\ndescription = "What {name} does."\norigin = ["#1"]\n'
            f'upstream-status = "pending"\nlicense = "MIT"\n'
            f"requires = {json.dumps(list(requires))}\nconflicts = {json.dumps(list(conflicts))}\n"
            f'[contract]\nheaders = ["include/llama.h"]\n'
            f'symbols = [{{library = "llama", name = "f"}}]\n'
            f'[pins."{PIN}"]\n{entry}\n'
        )
        self.series(*self.listed(), name)
        return folder

    def listed(self) -> list[str]:
        """Return the names in series.toml."""
        series = self.patches / "series.toml"
        return json.loads(series.read_text().partition("=")[2]) if series.exists() else []

    def series(self, *names: str) -> None:
        """Write series.toml."""
        self.patches.mkdir(exist_ok=True)
        (self.patches / "series.toml").write_text(f"features = {json.dumps(names)}\n")


def make_world(root: Path, upstream: Mapping[str, str] = UPSTREAM) -> World:
    """Make a world with an empty series."""
    source = root / "upstream"
    for path, text in upstream.items():
        place = source / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    store = TreeStore(root / "cache" / "objects.git")
    world = World(root, store, store.add(source))
    world.series()
    return world

"""Features applied to a tree inside the object store, one by one; no file is ever checked out.

A scratch index holds the tree as it grows. Hooks go in as git reads them: every line of
context must fit, an offset is allowed, a fuzz or a 3-way merge is not.
"""

from __future__ import annotations

import re
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...errors import PatchError
from ..git import Git, Result, names
from ..tree import TreeStore
from .features import Feature, SourceFile
from .hooks import Hook

_PLACE = re.compile(r"^error: patch failed: (.+:\d+)$", re.MULTILINE)
_OFFSET = re.compile(r"\(offset -?(\d+) lines?\)")


@dataclass(frozen=True)
class Step:
    """One feature, applied: the tree with it, and the largest offset of its hunks in lines."""

    feature: Feature
    tree: str
    offset: int


class Composer:
    """A tree under work."""

    def __init__(self, git: Git, tree: str, pin: str) -> None:
        self.git = git
        self._pin = pin
        self.reset(tree)

    def reset(self, tree: str) -> None:
        """Go on from `tree`."""
        self.tree = tree
        self.git.run("read-tree", tree)
        self._names = _Names(names(self.git.run("ls-files", "-z").out))

    def add(self, feature: Feature) -> Step:
        """Apply a feature. Raises PatchError; then `reset` before anything else is added."""
        offset = 0
        entry = feature.at(self._pin)
        if entry.kind == "not-applicable":
            raise PatchError(f"feature {feature.name} does not apply to pin {self._pin}: {entry.reason}")
        if entry.kind == "hooks":
            self._add_files(feature, feature.files_at(self._pin))
            hooks = feature.hooks_at(self._pin)
            offset = self._apply(feature, hooks) if hooks else 0
            tree = self.git.run("write-tree").out.strip()
            if tree == self.tree:
                raise PatchError(f"feature {feature.name} changes nothing at pin {self._pin}")
            self.tree = tree
        return Step(feature, self.tree, offset)

    def _add_files(self, feature: Feature, files: tuple[SourceFile, ...]) -> None:
        if not files:
            return
        for file in files:
            self._new_name(file.path, f"feature {feature.name}, file {file.path}")
        with tempfile.TemporaryDirectory(prefix="pyllama-files-") as folder:
            places = [Path(folder) / str(number) for number in range(len(files))]
            for place, file in zip(places, files, strict=True):
                place.write_bytes(file.data)
            listing = "".join(f"{place}\n" for place in places).encode()
            stored = self.git.run("hash-object", "-w", "--no-filters", "--stdin-paths", stdin=listing)
        rows = (
            f"{file.mode} {blob}\t{file.path}\0" for file, blob in zip(files, stored.out.split(), strict=True)
        )
        self.git.run("update-index", "--add", "-z", "--index-info", stdin="".join(rows).encode())

    def _apply(self, feature: Feature, hooks: tuple[Hook, ...]) -> int:
        """Apply hooks in one go; when they fail, one by one, to say which."""
        for hook in hooks:
            for change in hook.changes:
                if change.kind == "create":
                    self._new_name(change.path, f"feature {feature.name}, hook {hook.name}")
                elif change.kind == "delete":
                    self._names.remove(change.path)
        done = self._git_apply(hooks)
        if done.code == 0:
            return max((int(lines) for lines in _OFFSET.findall(done.err)), default=0)
        for hook in hooks:
            one = self._git_apply((hook,)) if len(hooks) > 1 else done
            if one.code != 0:
                raise PatchError(self._why(f"feature {feature.name}, hook {hook.name}", one.err))
        raise PatchError(self._why(f"feature {feature.name}", done.err))

    def _git_apply(self, hooks: tuple[Hook, ...]) -> Result:
        done = self.git.run(
            *("apply", "--cached", "--apply", "--numstat", "-z", "-v", "--whitespace=nowarn", "-p1"),
            stdin=b"\n".join(hook.data for hook in hooks),
            check=False,
        )
        if done.code == 0 and done.out != "".join(hook.numstat for hook in hooks):
            which = ", ".join(hook.name for hook in hooks)
            raise PatchError(f"{which}: git reads another diff there than there seems to be")
        return done

    def _why(self, where: str, stderr: str) -> str:
        place = _PLACE.search(stderr)
        at = f" at {place[1]}" if place else ""
        return (
            f"{where} does not apply to pin {self._pin}{at} (git: {_complaint(stderr)}): "
            "see `pyllama patches status`"
        )

    def _new_name(self, path: str, where: str) -> None:
        taken = self._names.add(path)
        if taken is not None:
            raise PatchError(f"{where} can't be added at pin {self._pin}: the tree has {taken} already")


@contextmanager
def composing(store: TreeStore, tree: str, pin: str, keep: bool = True) -> Iterator[Composer]:
    """Yield a Composer that starts from `tree`; without `keep`, the store is only read."""
    if tree not in store:
        raise PatchError(f"the tree {tree[:12]} of pin {pin} is not in the cache: run `pyllama fetch {pin}`")
    with store.scratch_index(keep=keep) as git:
        yield Composer(git, tree, pin)


class _Names:
    """The names of a tree, compared as a file system does that folds case."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}
        for path in paths:
            self._put(path)

    def add(self, path: str) -> str | None:
        """Put a new file in; when a name is in its way, return that one instead."""
        same = self._files.get(_fold(path)) or self._folders.get(_fold(path))
        if same is not None:
            return same
        for folder in _above(path):
            in_the_way = self._files.get(_fold(folder)) or self._folders.get(_fold(folder), folder)
            if in_the_way != folder or _fold(folder) in self._files:
                return in_the_way
        self._put(path)
        return None

    def remove(self, path: str) -> None:
        self._files.pop(_fold(path), None)

    def _put(self, path: str) -> None:
        self._files[_fold(path)] = path
        for folder in _above(path):
            key = _fold(folder)
            if key in self._folders:
                break
            self._folders[key] = folder


def _above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _fold(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())


def _complaint(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith(("error: ", "fatal: "))]
    return "; ".join(dict.fromkeys(line[7:] for line in lines)) or "no reason given"

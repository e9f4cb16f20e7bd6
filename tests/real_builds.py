"""Finished builds of real pins, out of the machine's own cache."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyllama.builder import build as builds
from pyllama.builder.paths import locate
from pyllama.builder.plan import make_plan
from pyllama.builder.progress import Reporter
from pyllama.builder.stack.apply import apply
from pyllama.builder.tree import TreeStore

SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"
"""Of the core's libraries. Plug-ins and the module of the bindings end in `.so` on macOS, too."""
elf_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ELF files are those of Linux")


@dataclass(frozen=True)
class TestBuild:
    """A finished build and the tree that it was made from."""

    __test__ = False

    pin: str
    folder: Path
    tree: Path

    @property
    def lib_dir(self) -> Path:
        return self.folder / "lib"

    @property
    def include_dirs(self) -> list[Path]:
        return [self.folder / "include"]


def make_build(pin: str | None, wanted: str, *targets: str, backends: list[str] | None = None) -> TestBuild:
    """Return a build of the machine's own cache, making it when it is not there.

    Without `backends`, `PYLLAMA_TEST_BACKENDS` names those beside the CPU whose plug-ins are tested too.
    """
    paths, quiet = locate(), Reporter(quiet=True)
    if backends is None:
        backends = [name for name in os.environ.get("PYLLAMA_TEST_BACKENDS", "").split(",") if name]
    # Nobody chats with the stock build, and its templates take as long to compile as the core.
    plan = make_plan(paths, pin=pin, wanted=wanted, backends=backends, chat=wanted != "none")
    done = builds.build(paths, plan, quiet, targets=list(targets))
    tree = apply(plan.pin.name, plan.pin.tree, plan.features, paths, TreeStore(paths.objects), quiet)
    return TestBuild(plan.pin.name, done.folder, tree.folder)

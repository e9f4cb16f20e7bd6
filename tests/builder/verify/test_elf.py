"""Reading what a library exports and needs."""

from __future__ import annotations

import re
import sys

import pytest
from real_builds import TestBuild, elf_only

from pyllama import extras
from pyllama.builder.verify import elf
from pyllama.errors import BuildError


@elf_only
def test_without_pyelftools_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, patched_build: TestBuild
) -> None:
    library = patched_build.lib_dir / "libggml.so"
    read = elf.read(library)
    assert read is not None and "libggml-base.so" in read.needed
    monkeypatch.setitem(sys.modules, "elftools.common.exceptions", None)
    with pytest.raises(BuildError, match=re.escape(extras.install("build"))):
        elf.read(library)

"""Feature masked-skip without a model: the scan of masks; see src/mask.cpp."""

from __future__ import annotations

import pytest

from .conftest import Build, Compile, Run

pytestmark = pytest.mark.matrix

SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.parametrize("flags", [("-O3",), SANITIZE], ids=["fast", "sanitized"])
def test_the_scan(
    compile_native: Compile, run_native: Run, patched_build: Build, flags: tuple[str, ...]
) -> None:
    program = compile_native(patched_build, "mask.cpp", flags=flags)
    for seed in (1, 2, 3):
        done = run_native(program, seed, env={"ASAN_OPTIONS": "detect_leaks=0"})
        assert done.returncode == 0, done.stderr
        word, checked = done.stdout.split()
        assert word == "ok" and int(checked) > 50000

"""Feature amx-tiles: an optimizing gcc writes all of what AMX is told, see src/amx_tiles.cpp."""

from __future__ import annotations

import platform
import re
import struct
from pathlib import Path

import pytest

from .conftest import Build, Compile, Run

pytestmark = [
    pytest.mark.matrix,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AMX is x86-64's"),
]

ROWS, COLUMN_BYTES = [8, 8, 16, 16, 16, 16, 16, 16], [64, 64, 32, 32, 64, 64, 64, 64]
WHOLE = struct.pack("<2B14x8H16x8B8x", 1, 0, *COLUMN_BYTES, *ROWS)


def seen(build: Build, compile_native: Compile, run_native: Run, folder: Path) -> bytes:
    text = (build.tree / "ggml/src/ggml-cpu/amx/mmq.cpp").read_text()
    parts = [
        re.search(pattern, text, re.M | re.S)
        for pattern in (
            r"^struct tile_config_t.*?^\};",
            r"(^#define TC_CONFIG_TILE[^\n]*\n)?^(inline )?void ggml_tile_config_init\(void\) \{.*?^\}",
        )
    ]
    (folder / "tile_config.inc").write_text("\n".join(part.group() + "\n" for part in parts if part))
    program = compile_native(build, "amx_tiles.cpp", flags=["-O1", f"-I{folder}"])
    done = run_native(program)
    assert done.returncode == 0, done.stderr
    return bytes(map(int, done.stdout.split()))


def test_all_of_it_is_written(
    patched_build: Build, compile_native: Compile, run_native: Run, tmp_path: Path
) -> None:
    assert seen(patched_build, compile_native, run_native, tmp_path) == WHOLE


def test_without_it_the_tiles_have_no_rows(
    stock_build: Build, compile_native: Compile, run_native: Run, tmp_path: Path
) -> None:
    if stock_build.pin == "2025-08":
        pytest.skip("what is kept there is read again, so it is written; only its order is not sure")
    held = seen(stock_build, compile_native, run_native, tmp_path)
    if held == WHOLE:
        pytest.skip("this compiler keeps them here; gcc 12 does not")
    assert held[:1] == WHOLE[:1] and held[48:56] != WHOLE[48:56]

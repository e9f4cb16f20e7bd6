"""The C of pyllama.native, under the sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import pyllama

CSRC = Path(pyllama.__file__).parent / "native" / "csrc"


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_shim(tmp_path: Path, sanitizer: str) -> None:
    program = tmp_path / "shim"
    source = Path(__file__).parent / "src" / "shim.c"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run(
        [
            *("cc", *flags, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", f"-I{CSRC}"),
            *(str(source), str(CSRC / "pyllama_shim.c"), "-o", str(program), "-ldl"),
        ],
        check=True,
    )
    # gcc 12's thread sanitizer cannot place its shadow under full address randomisation
    prefix = ["setarch", "-R"] if sanitizer == "thread" else []
    done = subprocess.run([*prefix, str(program)], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr

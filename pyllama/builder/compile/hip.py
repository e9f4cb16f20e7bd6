"""ROCm: is it there, and for which of AMD's GPUs to compile."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ...errors import UsageError
from . import roots

ARCHITECTURES = "PYLLAMA_HIP_ARCHITECTURES"
OLDEST = (6, 1)
"""The version of ROCm below which upstream's lists of CMake refuse it."""
_ARCHITECTURE = re.compile(r"gfx[0-9a-f]+(-[0-9a-f]+)*(-generic)?(:(sramecc|xnack)[+-])*")


def version(found: Sequence[Path]) -> str | None:
    """Return what the `hipcc` on PATH or in one of the roots says of itself; None without one."""
    hipcc = roots.program("hipcc", found)
    said = _lines(hipcc, "--version") if hipcc else []
    return said[0] if said else None


def too_old(said: str) -> bool:
    """Say whether upstream refuses a version; one that cannot be read is left to it."""
    number = re.search(r"(\d+)\.(\d+)", said)
    return number is not None and (int(number[1]), int(number[2])) < OLDEST


def architectures(found: Sequence[Path]) -> str:
    """Return for which GPUs to compile, as CMake says it: the user's choice, or those of the GPUs here.

    Raises UsageError when neither is known: CMake would take what it finds, or fail late.
    """
    chosen = os.environ.get(ARCHITECTURES, "").strip()
    if chosen:
        if not all(_ARCHITECTURE.fullmatch(word) for word in chosen.split(";")):
            raise UsageError(f"{ARCHITECTURES}={chosen} is no list such as gfx1030;gfx1100: correct it")
        return chosen
    program = roots.program("rocm_agent_enumerator", found)
    names = {name for name in _lines(program) if name != "gfx000"} if program else set()  # that is the CPU
    if not names:
        raise UsageError(
            f"no AMD GPU answers here: set {ARCHITECTURES} to those to compile for, for example "
            "gfx1030;gfx1100 (https://rocm.docs.amd.com lists them)"
        )
    return ";".join(sorted(names))


def _lines(*command: str) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []

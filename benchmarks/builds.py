"""The builds that a benchmark compares, made when they are not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

STOCK = ("--features", "amx-tiles")
"""Options for upstream's own code, but for a fault with gcc 12: no quantized model runs on a CPU with AMX."""


def build(pin: str, *options: str) -> Path:
    """Return the folder of a finished build; `options` are those of `pyllama build`."""
    command = [sys.executable, "-m", "pyllama.builder", "build", "--pin", pin, *options, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Path(json.loads(done.stdout)["folder"])


def backend_of(device: str) -> tuple[str, ...]:
    """Return the options of a build for a device, e.g. `Vulkan0`; none for the CPU."""
    return () if device == "CPU" else ("--backend", device.rstrip("0123456789").lower())

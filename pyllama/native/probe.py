"""Try a plug-in in a child process before this one loads it: a broken driver takes the child down.

The verdict is kept in the user's cache until the plug-in, the driver's files or the environment that
drivers look at change.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path

from ..places import cache_dir
from . import companions
from .plugins import Plugin

SECONDS = 120
_ENVIRONMENT = (
    *("VK_", "GGML_", "CUDA_", "NVIDIA_", "HIP_", "HSA_", "ROCR_", "ROCM_", "SYCL_", "ONEAPI_", "ZE_"),
    *("OCL_", "OPENCL_", "MESA_", "LIBGL_", "GALLIUM_", "LD_", "DYLD_", "OPENBLAS_"),
)
_CRASHED = "it crashed the process that tried it"
# This very pyllama, and nothing from the current folder: it may be anybody's.
_CHILD = """
import sys
root = sys.argv.pop(1)
sys.path[:] = [root, *filter(None, sys.path)]
import pyllama
sys.path.remove(root)
from pyllama.native.probe import child
child(*sys.argv[1:])
"""
_DRIVERS = (
    *("/etc/ld.so.cache", "/proc/driver/nvidia/version", "/dev/nvidia*", "/dev/kfd", "/dev/dri/*"),
    *("/usr/share/vulkan/icd.d/*", "/etc/vulkan/icd.d/*", "/usr/local/share/vulkan/icd.d/*"),
    *("/etc/OpenCL/vendors/*", "/dev/dxg"),
)


@dataclass(frozen=True)
class Verdict:
    """Whether a plug-in can be loaded here, and what it finds."""

    usable: bool
    reason: str
    """Why it cannot; empty when it can."""
    devices: tuple[str, ...]
    """What its devices are called."""


def probe(plugin: Plugin, build: Path, *, fresh: bool = False) -> Verdict:
    """Return the verdict on a plug-in for the core of `build`; with `fresh`, without asking the cache.

    What works and what crashes is kept. Where there is no Python to run, as in a frozen program, a plug-in
    is taken as it is.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        return Verdict(True, "", ("not tried",))
    place = cache_dir() / "probes" / f"{_key(plugin, build, os.environ.items())}.json"
    if not fresh:
        with suppress(OSError, ValueError, TypeError):
            table = json.loads(place.read_text(encoding="utf-8"))
            return Verdict(**{**table, "devices": tuple(table["devices"])})
    try:
        verdict = _ask_child(plugin, build)
    except OSError as error:  # no temporary folder, no process
        return Verdict(False, f"it cannot be tried: {error.strerror or error}", ())
    if not verdict.usable and not verdict.reason.startswith(_CRASHED):
        return verdict  # cured by an installation that leaves no trace in the key, or by another try
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", dir=place.parent)
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(verdict), file)
        os.replace(name, place)
    return verdict


def _key(plugin: Plugin, build: Path, environment: Iterable[tuple[str, str]]) -> str:
    """Return a name for all that the verdict may depend on."""
    files = [str(plugin.path), str(build / "build.json"), sys.executable]
    files += map(str, companions.folders())
    files += sorted(path for pattern in _DRIVERS for path in glob(pattern))
    told = sorted(pair for pair in environment if pair[0].startswith(_ENVIRONMENT))
    # Who may open a device's file.
    user = [os.geteuid(), sorted(os.getgroups())] if hasattr(os, "geteuid") else []
    parts = [[_stamp(path) for path in files], told, user]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _stamp(path: str) -> tuple[str, int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return path, 0, 0
    # A device's file is made anew at each start; that it is there is what counts.
    return (path, 0, 1) if path.startswith("/dev/") else (path, found.st_size, found.st_mtime_ns)


def _ask_child(plugin: Plugin, build: Path) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="pyllama-probe-") as folder:
        answer = Path(folder) / "answer.json"
        root = str(Path(__file__).resolve().parents[2])
        command = [sys.executable, "-c", _CHILD, root, str(plugin.path), str(answer)]
        env = {**os.environ, "PYLLAMA_BUILD": str(build), "PYLLAMA_BACKENDS": "cpu"}
        try:
            ran = subprocess.run(command, env=env, capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return Verdict(False, f"it did not answer within {SECONDS} s", ())
        with suppress(OSError, ValueError, TypeError):
            table = json.loads(answer.read_text(encoding="utf-8"))
            if ran.returncode == 0 or not table["usable"]:
                return Verdict(**{**table, "devices": tuple(table["devices"])})
        return Verdict(False, _how_it_ended(ran.returncode, ran.stderr.decode("utf-8", "replace")), ())


def _how_it_ended(code: int, said: str) -> str:
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
    if code < 0:
        with suppress(ValueError):
            return f"{_CRASHED} ({signal.Signals(-code).name})"
    return f"the process that tried it ended with code {code}{f': {last}' if last else ''}"


def child(path: str, answer: str) -> None:
    """Load a plug-in on top of the core, list its devices, and leave as a program does."""
    from ..errors import LoadError
    from .loader import load

    library = load()
    before = library.raw.ggml_backend_dev_count()
    try:
        library.register(Path(path))
        devices = [
            library.ffi.string(library.raw.ggml_backend_dev_name(library.raw.ggml_backend_dev_get(i))).decode(
                "utf-8", "replace"
            )
            for i in range(before, library.raw.ggml_backend_dev_count())
        ]
        verdict = Verdict(True, "", tuple(devices))
    except LoadError as error:
        verdict = Verdict(False, str(error), ())
    Path(answer).write_text(json.dumps(asdict(verdict)), encoding="utf-8")

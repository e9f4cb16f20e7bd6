"""Try a plug-in in a child process before this one loads it: a broken driver takes the child down.

That it works, or crashes, is kept in the user's cache until the plug-in, the driver's files or the
environment that drivers look at change. That it finds no device, or says nothing, may pass by itself, and
is kept for an hour.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path

from ..errors import UsageError
from ..places import cache_dir
from . import companions
from .plugins import Plugin

SECONDS = 120
_PASSING = 3600  # seconds for which a verdict is kept that may change by itself
_UNUSED = 30 * 24 * 3600  # seconds after which one is removed, of whatever it was
_ENVIRONMENT = (
    *("VK_", "GGML_", "CUDA_", "NVIDIA_", "HIP_", "HSA_", "ROCR_", "ROCM_", "SYCL_", "ONEAPI_", "ZE_"),
    *("OCL_", "OPENCL_", "MESA_", "LIBGL_", "GALLIUM_", "LD_", "DYLD_", "OPENBLAS_"),
    *("XDG_DATA_", "XDG_CONFIG_"),
)
# Those of them that name files or folders of drivers and of libraries.
_NAMING = ("VK_", "LD_", "DYLD_", "OCL_", "OPENCL_")
_CRASHED = "it crashed the process that tried it"
_SILENT = "it did not answer within"
# The signals of a process that went wrong by itself; others came from outside.
_FAULTS = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS")
_WINDOWS_FAULT = 0xC0000000  # exit codes from here on are such faults there
# This very pyllama and what it imports, and nothing from the current folder: it may be anybody's.
_CHILD = """
import sys
sys.path[:] = filter(None, sys.path)
import json
root, *others = json.loads(sys.argv.pop(1))
sys.path.insert(0, root)
import pyllama
sys.path.remove(root)
sys.path += [path for path in others if path not in sys.path]
from pyllama.native.probe import child
child(*sys.argv[1:])
"""
_DRIVERS = (
    *("/etc/ld.so.cache", "/proc/driver/nvidia/version", "/dev/nvidia*", "/dev/kfd", "/dev/dri/*"),
    *("/usr/share/vulkan/icd.d/*", "/etc/vulkan/icd.d/*", "/usr/local/share/vulkan/icd.d/*"),
    *("~/.local/share/vulkan/icd.d/*", "$XDG_DATA_HOME/vulkan/icd.d/*", "~/.config/vulkan/icd.d/*"),
    *("$XDG_CONFIG_HOME/vulkan/icd.d/*", "/etc/OpenCL/vendors/*", "/dev/dxg"),
)


@dataclass(frozen=True)
class Verdict:
    """Whether a plug-in can be loaded here, and what it finds."""

    usable: bool
    reason: str
    """Why it cannot; empty when it can."""
    devices: tuple[str, ...]
    """What its devices are called."""

    @property
    def _kept(self) -> float:
        """For how many seconds it holds: another failure may be cured by what leaves no trace in the key."""
        if self.devices or self.reason.startswith(_CRASHED):
            return _UNUSED
        return _PASSING if self.usable or self.reason.startswith(_SILENT) else 0


def probe(plugin: Plugin, build: Path, *, fresh: bool = False) -> Verdict:
    """Return the verdict on a plug-in for the core of `build`; with `fresh`, without asking the cache.

    Where there is no Python to run, as in a frozen program, a plug-in is taken as it is.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        return Verdict(True, "", ("not tried",))
    place = _place(plugin, build)
    known = None if fresh else _read(place)
    if known is not None:
        return known
    try:
        verdict = _ask_child(plugin.path, build)
    except OSError as error:  # no temporary folder, no process
        return Verdict(False, f"it cannot be tried: {error.strerror or error}", ())
    _write(place, verdict)
    return verdict


def core(build: Path) -> Verdict:
    """Return the verdict on the core of `build` with the CPU's plug-in, which is never kept."""
    try:
        return _ask_child(None, build)
    except OSError as error:
        return Verdict(False, f"it cannot be tried: {error.strerror or error}", ())


def forget(plugin: Plugin, build: Path) -> None:
    """Remove what is kept of a plug-in: it turned out to be wrong."""
    _remove(_place(plugin, build))


def _place(plugin: Plugin, build: Path) -> Path | None:
    """Return where the verdict is kept, or None: a user without a home folder has no cache."""
    with suppress(UsageError):
        return cache_dir() / "probes" / f"{_key(plugin, build, os.environ.items())}.json"
    return None


def _read(place: Path | None) -> Verdict | None:
    if place is None:
        return None
    with suppress(OSError, ValueError, TypeError, KeyError):
        verdict = _verdict(place)
        if time.time() - place.stat().st_mtime < verdict._kept:
            return verdict
    return None


def _write(place: Path | None, verdict: Verdict) -> None:
    """Keep a verdict in place of the one before it, or none; what nobody asked for in weeks goes."""
    if place is None:
        return
    if not verdict._kept:
        _remove(place)
        return
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", dir=place.parent)
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(verdict), file)
        os.replace(name, place)
        for other in place.parent.iterdir():
            if time.time() - other.stat().st_mtime > _UNUSED:
                other.unlink(missing_ok=True)


def _remove(place: Path | None) -> None:
    if place is not None:
        with suppress(OSError):
            place.unlink(missing_ok=True)


def _verdict(file: Path) -> Verdict:
    table = json.loads(file.read_text(encoding="utf-8"))
    return Verdict(**{**table, "devices": tuple(table["devices"])})


def _key(plugin: Plugin, build: Path, environment: Iterable[tuple[str, str]]) -> str:
    """Return a name for all that the verdict may depend on."""
    told = sorted(pair for pair in environment if pair[0].startswith(_ENVIRONMENT))
    files = [str(plugin.path), str(build / "build.json"), sys.executable]
    files += map(str, companions.folders())
    patterns = [os.path.expanduser(os.path.expandvars(pattern)) for pattern in _DRIVERS]
    files += sorted(path for pattern in patterns for path in glob(pattern))
    named = [value.split(os.pathsep) for name, value in told if name.startswith(_NAMING)]
    files += [path for paths in named for path in paths if os.path.isabs(path)]
    # Who may open a device's file.
    user = [os.geteuid(), sorted(os.getgroups())] if hasattr(os, "geteuid") else []
    parts = [[_stamp(path) for path in files], told, user]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _stamp(path: str) -> tuple[str, int, int] | tuple[str, bytes]:
    """Return what changes when a file does, or what a folder holds."""
    try:
        found = os.stat(path)
        if path.startswith("/proc/"):  # its size and time say nothing
            return path, Path(path).read_bytes()
    except OSError:
        return path, 0, 0
    # A device's file is made anew at each start; that it is there is what counts.
    return (path, 0, 1) if path.startswith("/dev/") else (path, found.st_size, found.st_mtime_ns)


def _ask_child(plugin: Path | None, build: Path) -> Verdict:
    """Load the core, and a plug-in on top of it, in a child; a Ctrl-C for this process is not its."""
    roots = [str(Path(__file__).resolve().parents[2]), *(path for path in sys.path if os.path.isabs(path))]
    with tempfile.TemporaryDirectory(prefix="pyllama-probe-") as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-c", _CHILD, json.dumps(roots), str(answer), str(plugin or "")]
        env = {**os.environ, "PYLLAMA_BUILD": str(build), "PYLLAMA_BACKENDS": "cpu"}
        try:
            ran = subprocess.run(
                command, env=env, capture_output=True, timeout=SECONDS, check=False, start_new_session=True
            )
        except subprocess.TimeoutExpired:
            return Verdict(False, f"{_SILENT} {SECONDS} s", ())
        with suppress(OSError, ValueError, TypeError, KeyError):
            verdict = _verdict(answer)
            if ran.returncode == 0 or not verdict.usable:
                return verdict
        return Verdict(False, _how_it_ended(ran.returncode, ran.stderr.decode("utf-8", "replace")), ())


def _how_it_ended(code: int, said: str) -> str:
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
    if code < 0:
        with suppress(ValueError):
            name = signal.Signals(-code).name
            return f"{_CRASHED if name in _FAULTS else 'the process that tried it was ended'} ({name})"
    if code >= _WINDOWS_FAULT:
        return f"{_CRASHED} (code {code:#x})"
    return f"the process that tried it ended with code {code}{f': {last}' if last else ''}"


def child(answer: str, path: str) -> None:
    """Load the core and a plug-in, if one is named; list its devices, and leave as a program does."""
    from ..errors import LoadError
    from .loader import load

    if hasattr(signal, "alarm"):
        signal.alarm(SECONDS + 10)  # who started this may be gone
    try:
        library = load()
        before = library.raw.ggml_backend_dev_count() if path else 0
        if path:
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

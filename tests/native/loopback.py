"""The loopback device: a GPU for machines that have none. See ``loopback/loopback.h``.

A test takes the fixture ``loopback`` and finds the device registered, with counts at zero:

    def test_upload(loopback, test_model):
        with pyllama.Model(test_model) as model: ...
        assert loopback.stats().set_bytes > 0

The device is gone when the test ends, and everything on it has to be freed by then. More devices:
``@pytest.mark.parametrize("loopback", [2], indirect=True)``. What may end the process, or has to run with the
build of the pin under test whatever is installed, takes ``loopback_child``.
"""

from __future__ import annotations

import gc
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from cffi import FFI

import pyllama

SOURCE = Path(__file__).parent / "loopback"
SOURCES = tuple(sorted(SOURCE.glob("*.cpp")))
FLAGS = ("-Wno-unused-function",)  # ggml-impl.h is full of them
SHARED = ("-shared", "-fPIC", *FLAGS)

LoopbackChild = Callable[..., "subprocess.CompletedProcess[str]"]


class Mode(IntEnum):
    """When a stream carries out what it was given; `LOOPBACK_…` of loopback.h."""

    DEFERRED = 0
    WORKER = 1
    IMMEDIATE = 2


@dataclass(frozen=True)
class Stats:
    """`struct loopback_counts`: calls, and bytes where the name says so."""

    sets: int
    set_bytes: int
    gets: int
    get_bytes: int
    async_sets: int
    async_set_bytes: int
    async_gets: int
    async_get_bytes: int
    memsets: int
    memset_bytes: int
    clears: int
    clear_bytes: int
    copies: int
    copy_bytes: int
    copies_in: int
    copy_in_bytes: int
    copies_out: int
    copy_out_bytes: int
    async_copies: int
    copies_refused: int
    allocs: int
    alloc_bytes: int
    allocs_failed: int
    frees: int
    free_bytes: int
    live: int
    live_bytes: int
    peak_bytes: int
    computes: int
    computes_failed: int
    nodes: int
    synchronizes: int
    events: int
    event_frees: int
    event_records: int
    event_waits: int
    event_synchronizes: int
    dropped: int

    @property
    def bytes_to_device(self) -> int:
        """Bytes that came from the host."""
        return self.set_bytes + self.async_set_bytes

    @property
    def bytes_to_host(self) -> int:
        """Bytes that went to the host."""
        return self.get_bytes + self.async_get_bytes


def declarations() -> str:
    """Return the header as cffi reads it: without the preprocessor's lines and what is only for C++."""
    text = (SOURCE / "loopback.h").read_text(encoding="utf-8")
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.S)
    return re.sub(r"^#.*$", "", text, flags=re.M)


class Loopback:
    """The registered plug-in. `device` is 0 … `count` - 1 everywhere."""

    def __init__(self, plugin: str | Path, devices: int = 1) -> None:
        from pyllama.lib import ggml_backend_load, ggml_backend_reg_dev_count

        self._ffi: Any = FFI()
        self._ffi.cdef(declarations())
        # our own handle keeps the code and its counts when ggml closes its one
        self._c: Any = self._ffi.dlopen(str(plugin), self._ffi.RTLD_NOW | self._ffi.RTLD_LOCAL)
        os.environ["LOOPBACK_DEVICES"] = str(devices)
        try:
            self._reg = ggml_backend_load(os.fsencode(plugin))
        finally:
            del os.environ["LOOPBACK_DEVICES"]
        if self._reg == pyllama.ffi.NULL:
            raise pyllama.LoadError(f"{plugin} does not load: compile it for pin {pyllama.build_info().pin}")
        self.count = int(ggml_backend_reg_dev_count(self._reg))
        self.reset()
        self.defaults()

    def unload(self) -> None:
        """Take the devices out of ggml's registry. Nothing may be on them any more."""
        pyllama.lib.ggml_backend_unload(self._reg)

    def device(self, device: int = 0) -> Any:
        """Return the `ggml_backend_dev_t`."""
        assert 0 <= device < self.count
        return pyllama.lib.ggml_backend_reg_dev_get(self._reg, device)

    def stats(self, device: int = 0) -> Stats:
        """Return the counts of one device."""
        assert 0 <= device < self.count
        counts = self._ffi.new("struct loopback_counts *")
        self._c.loopback_stats(device, counts)
        return Stats(**{field.name: getattr(counts, field.name) for field in fields(Stats)})

    def reset(self) -> None:
        """Set the counts of every device to zero; what is live stays."""
        for device in range(self.count):
            self._c.loopback_reset(device)

    def defaults(self) -> None:
        """Set every setting of every device as it was at first; faults that are not due yet are forgotten."""
        for device in range(self.count):
            self._c.loopback_defaults(device)

    def set(self, device: int = 0, **settings: int) -> None:
        """Change settings by their names in loopback.h: `set(memory=2**30, offload_batch=0)`."""
        assert 0 <= device < self.count
        for name, value in settings.items():
            self._c.loopback_set(device, getattr(self._c, f"LOOPBACK_{name.upper()}"), value)

    def get(self, name: str, device: int = 0) -> int:
        """Return a setting."""
        assert 0 <= device < self.count
        return int(self._c.loopback_get(device, getattr(self._c, f"LOOPBACK_{name.upper()}")))

    def mode(self, mode: Mode) -> None:
        """Choose how the streams of contexts that are made from now on work, on every device."""
        for device in range(self.count):
            self.set(device, mode=mode)

    def fail_alloc(self, n: int = 1, device: int = 0) -> None:
        """Let the n-th allocation from now on fail, and only that."""
        self.set(device, fail_alloc=n)

    def limit_alloc(self, size: int, device: int = 0) -> None:
        """Let allocations fail that would take more than `size` bytes in all, without telling before."""
        self.set(device, alloc_limit=size)

    def fail_compute(self, n: int = 1, device: int = 0) -> None:
        """Let the n-th graph from now on fail, and only that."""
        self.set(device, fail_compute=n)

    def refuse_copies(self, refuse: bool = True, device: int = 0) -> None:
        """Let `cpy_tensor` return false: the caller has to go through the host."""
        self.set(device, refuse_copy=refuse)

    def refuse_async_copies(self, refuse: bool = True, device: int = 0) -> None:
        """Let `cpy_tensor_async` return false: the caller has to synchronise and copy at once."""
        self.set(device, refuse_async=refuse)


class RemoteLoopback:
    """The devices of another process, started with `env`, through the file that it keeps them in."""

    def __init__(self, plugin: Path, file: Path) -> None:
        ffi: Any = FFI()
        ffi.cdef(declarations())
        self._constants: Any = ffi.dlopen(None)
        self._first_count = int(self._constants.LOOPBACK_SETTINGS)
        self._size = self._first_count + len(fields(Stats))
        self.env = {"GGML_BACKEND_PATH": str(plugin), "LOOPBACK_SHARED": str(file)}
        file.write_bytes(bytes(8 * self._size * self._constants.LOOPBACK_MAX_DEVICES))
        with file.open("r+b") as opened:
            self._words = memoryview(mmap.mmap(opened.fileno(), 0)).cast("Q")

    def stats(self, device: int = 0) -> Stats:
        """Return the counts of one device."""
        first = device * self._size + self._first_count
        return Stats(*self._words[first : first + len(fields(Stats))])

    def set(self, device: int = 0, **settings: int) -> None:
        """Change settings, as `Loopback.set` does."""
        for name, value in settings.items():
            setting = getattr(self._constants, f"LOOPBACK_{name.upper()}")
            self._words[device * self._size + setting] = value


@pytest.fixture(scope="session")
def loopback_plugin(compile_native: Callable[..., Path], patched_build: Any) -> Path:
    """The plug-in, compiled for the pin under test. It uses whatever ggml is in the process."""
    first, *rest = SOURCES
    source = os.path.relpath(first, SOURCE.parent / "src")
    return compile_native(patched_build, source, flags=SHARED, extra_sources=rest, rpath=False)


@pytest.fixture
def loopback(loopback_plugin: Path, patched_build: Any, request: pytest.FixtureRequest) -> Iterator[Loopback]:
    """The device in this process, for one test. A parameter is the number of devices."""
    installed = pyllama.build_info().pin
    if installed != patched_build.pin:
        pytest.fail(f"pin {patched_build.pin} is under test and {installed} is installed: set PYLLAMA_BUILD")
    found = Loopback(loopback_plugin, getattr(request, "param", 1))
    try:
        yield found
        gc.collect()
        left = {device: found.stats(device).live_bytes for device in range(found.count)}
        assert not any(left.values()), f"bytes that are still on the devices: {left}"
    finally:
        found.defaults()
        found.unload()


@pytest.fixture(scope="session")
def loopback_child(
    loopback_plugin: Path, patched_build: Any, test_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> LoopbackChild:
    """``loopback_child(code, *args, devices=1)`` runs Python with the build of the pin under test.

    The snippet finds `pyllama`, `ffi`, `lib`, `json`, `sys`, `MODEL` and `loopback`. ``check=False`` allows
    any exit code.
    """
    folder = tmp_path_factory.mktemp("loopback")
    places = [Path(pyllama.__file__).parents[1], Path(__file__).parents[1]]

    def run(
        code: str, *args: str | Path, devices: int = 1, check: bool = True, **env: str
    ) -> subprocess.CompletedProcess[str]:
        words = {
            **os.environ,
            "PYLLAMA_BUILD": str(patched_build.folder),
            "PYTHONPATH": os.pathsep.join(map(str, places)),
            "GGML_NO_BACKTRACE": "1",
            "OMP_WAIT_POLICY": "passive",
            **env,
        }
        opening = (
            "import json, sys, pyllama\nfrom pyllama import ffi, lib\n"
            "from native.loopback import Loopback, Mode\n"
            f"MODEL = {str(test_model)!r}\nloopback = Loopback({str(loopback_plugin)!r}, {devices})\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", opening + code, *map(str, args)],
            capture_output=True,
            text=True,
            env=words,
            cwd=folder,
            timeout=300,
        )
        assert not check or done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    return run

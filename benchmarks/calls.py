"""Cost of importing pyllama and of one call, beside ctypes and llama-cpp-python in the same run.

llama-cpp-python is the unmodified package out of the sdist that our build's pin is locked to,
pointed at our libraries by its own environment variable, so both call the same code.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

from table import Row, report

import pyllama
from pyllama.builder.fetch.models import default_model
from pyllama.builder.paths import locate
from pyllama.builder.pins import load
from pyllama.builder.progress import Reporter

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from peers import llama_cpp_python

CALLS = 200_000
ROUNDS = 9


def import_seconds(statement: str) -> float:
    """Return the median time that a fresh interpreter needs for a statement."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(15)
    ]
    return statistics.median(runs)


def rounds(calls: dict[str, tuple[Callable[..., object], object]]) -> dict[str, float]:
    """Return nanoseconds per call `f(x)`, the median of rounds in which each takes its turn."""
    timers = {name: timeit.Timer("f(x)", globals={"f": f, "x": x}) for name, (f, x) in calls.items()}
    seen: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, timer in timers.items():
            seen[name].append(timer.timeit(CALLS) / CALLS * 1e9)
    return {name: statistics.median(values) for name, values in seen.items()}


def main() -> None:
    """Measure and report."""
    paths = locate()
    model_path = default_model(load(paths.pins), paths, Reporter())
    lib = pyllama.lib
    lib_dir = pyllama.build_info().lib_dir
    rows = [
        Row("import pyllama", import_seconds("import pyllama") * 1e3, "ms", target="≤ 40 ms"),
        Row("import and load everything", import_seconds("import pyllama; pyllama.lib") * 1e3, "ms"),
    ]

    with tempfile.TemporaryDirectory(prefix="pyllama-bench-") as folder:
        bare = ctypes.CDLL(str(lib_dir / "libllama.so"))
        bare.llama_n_ctx.argtypes = [ctypes.c_void_p]
        bare.llama_n_ctx.restype = ctypes.c_uint32
        os.environ["LLAMA_CPP_LIB_PATH"] = str(lib_dir)
        pin = load(paths.pins).pin(pyllama.build_info().pin)
        sys.path.insert(0, str(llama_cpp_python(pin, Path(folder))))
        with pyllama.Model(model_path) as model, model.context(n_ctx=256) as context:
            import llama_cpp  # not before: it takes llama.cpp's log for itself and prints it

            ptr = context.ptr
            address = int(pyllama.ffi.cast("uintptr_t", ptr))
            typed = llama_cpp.llama_context_p(address)
            ns = rounds(
                {
                    "pyllama": (lib.llama_n_ctx, ptr),
                    "bare ctypes": (bare.llama_n_ctx, address),
                    "llama-cpp-python": (llama_cpp.llama_n_ctx, typed),
                }
            )
    ours = ns["pyllama"]
    rows += [
        Row("llama_n_ctx, pyllama", ours, "ns"),
        Row("llama_n_ctx, bare ctypes", ns["bare ctypes"], "ns", "bare", ours / ns["bare ctypes"], "≤ 0.55"),
        Row(
            "llama_n_ctx, llama-cpp-python",
            ns["llama-cpp-python"],
            "ns",
            "it",
            ours / ns["llama-cpp-python"],
            "≤ 0.4",
        ),
    ]
    report("calls", rows)


if __name__ == "__main__":
    main()

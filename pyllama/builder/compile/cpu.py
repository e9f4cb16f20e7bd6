"""The CPU options of a build, explicit and therefore part of its key.

Upstream lists the variants of its CPU plug-in in one CMake file. The entry with the most
features, all of which the machine has, is the one that fits.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

_VARIANT = re.compile(r"^\s*ggml_add_cpu_backend_variant\(([\w.]+)\s*([A-Z0-9_ ]*)\)", re.MULTILINE)

# Upstream's name of a feature, and the flags that Linux shows for it.
_X86_FLAGS = {
    "SSE42": {"sse4_2"},
    "AVX": {"avx"},
    "F16C": {"f16c"},
    "FMA": {"fma"},
    "AVX2": {"avx2"},
    "BMI2": {"bmi2"},
    "AVX_VNNI": {"avx_vnni"},
    "AVX512": {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"},
    "AVX512_VBMI": {"avx512vbmi"},
    "AVX512_VNNI": {"avx512_vnni"},
    "AVX512_BF16": {"avx512_bf16"},
    "AMX_TILE": {"amx_tile"},
    "AMX_INT8": {"amx_int8"},
    "AMX_BF16": {"amx_bf16"},
}
GENERIC = "generic"
_X86 = ("x86_64", "amd64", "i686")


@dataclass(frozen=True)
class CpuVariant:
    """A name of upstream's list, and the CMake options that stand for it."""

    name: str
    options: tuple[tuple[str, str], ...]


EVERY = CpuVariant("all", ())
"""Not one variant but all of them: upstream's list says what each has."""


def machine_flags() -> frozenset[str]:
    """Return the CPU flags that the kernel shows; empty where it shows none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    match = re.search(r"^flags\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()


def machine_features() -> tuple[str, ...]:
    """Return the machine and those of upstream's features that it has: part of a build's key."""
    flags = machine_flags()
    return (platform.machine(), *(name for name, needed in _X86_FLAGS.items() if needed <= flags))


def best_variant(cmake_text: str, machine: str, flags: frozenset[str]) -> CpuVariant:
    """Choose from upstream's own list in `cmake_text` (ggml/src/CMakeLists.txt).

    The variant with the most features that this machine all has wins, the later one on a
    tie, as upstream's score would have it. An architecture that we have no flags for gets
    upstream's defaults.
    """
    if machine.lower() not in _X86:
        return CpuVariant(GENERIC, ())
    best: str = "x64"
    best_features: tuple[str, ...] = ()
    for name, listed in _VARIANT.findall(cmake_text):
        features = tuple(listed.split())
        known = all(feature in _X86_FLAGS for feature in features)
        if known and all(_X86_FLAGS[f] <= flags for f in features) and len(features) >= len(best_features):
            best, best_features = name, features
    options = {f"GGML_{feature}": "ON" if feature in best_features else "OFF" for feature in _X86_FLAGS}
    return CpuVariant(best, tuple(sorted(options.items())))


def variant_for_here(tree: Path) -> CpuVariant:
    """Return the variant of a source tree that fits the machine we run on."""
    text = (tree / "ggml" / "src" / "CMakeLists.txt").read_text(encoding="utf-8")
    return best_variant(text, platform.machine(), machine_flags())

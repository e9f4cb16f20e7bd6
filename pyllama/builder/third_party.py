"""Work of others that upstream's sources hold or include: what of it ends up in the libraries of a build.

Upstream's `vendor/` is linked into its programs, `libllama-common` and `libmtmd` only; of it, what the
library of chat templates takes is here. A row counts when the source still says so, and where it can be
seen, the library too.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import finished

_NOTICES = Path(__file__).parent / "notices"


@dataclass(frozen=True)
class Work:
    """A work, the library that holds code of it, and the line of the source that says so."""

    name: str
    url: str
    license: str
    """SPDX expression."""
    copyright: str
    library: str
    """File name without prefix and suffix, or how those of its variants begin."""
    source: str
    says: str
    symbol: str = ""
    """A name that the library holds when that code is in."""
    machines: tuple[str, ...] = ()
    """The only machines for which that code is compiled."""
    outside: bool = False
    """Not of upstream's tree: headers of the machine that builds; their licence is `notices/<name>.txt`."""


_INSIDE = (
    Work(
        name="llamafile",
        url="https://github.com/mozilla-ai/llamafile",
        license="MIT",
        copyright="2024 Mozilla Foundation",
        library="ggml-cpu",
        source="ggml/src/ggml-cpu/llamafile/sgemm.cpp",
        says="// Copyright 2024 Mozilla Foundation",
        symbol="llamafile_sgemm",
    ),
    Work(
        name="yarn",
        url="https://github.com/jquesnelle/yarn",
        license="MIT",
        copyright="2023 Jeffrey Quesnelle and Bowen Peng",
        library="ggml-cpu",
        source="ggml/src/ggml-cpu/ops.cpp",
        says="// MIT licensed. Copyright (c) 2023 Jeffrey Quesnelle and Bowen Peng.",
    ),
    Work(
        name="optimized-routines",
        url="https://github.com/ARM-software/optimized-routines",
        license="MIT OR Apache-2.0 WITH LLVM-exception",
        copyright="Arm Limited",
        library="ggml-cpu",
        source="ggml/src/ggml-cpu/vec.h",
        says="// adapted from arm limited optimized routine",
        machines=("x86_64", "amd64", "aarch64", "arm64"),
    ),
    Work(
        name="ggllm.cpp",
        url="https://github.com/cmp-nct/ggllm.cpp",
        license="MIT",
        copyright="",
        library="llama",
        source="src/llama-vocab.cpp",
        says="// adapted from https://github.com/cmp-nct/ggllm.cpp [MIT License]",
    ),
    Work(
        name="jsonhpp",
        url="https://github.com/nlohmann/json",
        license="MIT",
        copyright="2013 - 2025 Niels Lohmann",
        library="pyllama-chat",
        source="vendor/nlohmann/json.hpp",
        says="// SPDX-FileCopyrightText: 2013 - 2025 Niels Lohmann <https://nlohmann.me>",
        symbol="json.exception",
    ),
    Work(
        name="minja",  # at 2025-08 only
        url="https://github.com/google/minja",
        license="MIT",
        copyright="2024 Google LLC",
        library="pyllama-chat",
        source="vendor/minja/chat-template.hpp",
        says="Copyright 2024 Google LLC",
    ),
)
_OUTSIDE = (
    Work(
        name="Vulkan-Headers",
        url="https://github.com/KhronosGroup/Vulkan-Headers",
        license="Apache-2.0",  # vulkan.hpp is offered under MIT, too, and vulkan_core.h is not
        copyright="2014-2025 The Khronos Group Inc.",
        library="ggml-vulkan",
        source="ggml/src/ggml-vulkan/ggml-vulkan.cpp",
        says="vk::PhysicalDevice",
        outside=True,
    ),
    Work(
        name="CCCL",  # CUB, with what it takes from libcu++ and Thrust; the licences are those of its LICENSE
        url="https://github.com/NVIDIA/cccl",
        license="BSD-3-Clause AND Apache-2.0 WITH LLVM-exception AND Apache-2.0 AND BSL-1.0 AND BSD-2-Clause "
        "AND (NCSA OR MIT)",
        copyright="2010-2011 Duane Merrill; 2011-2023 NVIDIA Corporation",
        library="ggml-cuda",
        source="ggml/src/ggml-cuda/sum.cu",
        says="#include <cub/cub.cuh>",
        outside=True,
    ),
)
WORKS = (*_INSIDE, *_OUTSIDE)


def held(tree: Path, build: Path, machine: str | None = None) -> Iterator[tuple[Work, Path]]:
    """Yield the works that are in the libraries of a build of `tree`, each with its library."""
    by_name = {path.stem.removeprefix("lib"): path for path in finished.libraries(build)}
    for work in WORKS:
        # One of several variants of the CPU's plug-in stands for all: the same sources are in each.
        variants = sorted(name for name in by_name if name.startswith(f"{work.library}-"))
        name = work.library if work.library in by_name else next(iter(variants), "")
        library = by_name.get(name)
        if library is None or (
            work.machines and (machine or platform.machine()).lower() not in work.machines
        ):
            continue
        if work.symbol and work.symbol.encode() not in library.read_bytes():
            continue
        source = tree / work.source
        if source.is_file() and work.says in source.read_text(encoding="utf-8", errors="replace"):
            yield work, library


def notice(tree: Path, work: Work) -> str:
    """Return a work's licence text: one that we keep, or what heads its source; empty where neither is."""
    if work.outside:
        return (_NOTICES / f"{work.name}.txt").read_text(encoding="utf-8")
    lines = []
    for line in (tree / work.source).read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("//"):
            break
        lines.append(line.removeprefix("//").removeprefix(" "))
    text = "\n".join(lines).strip() + "\n"
    return text if "Permission is hereby granted" in text else ""

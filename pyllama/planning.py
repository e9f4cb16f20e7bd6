"""What a model and a context would take of each device's memory, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .errors import ContextError
from .memory import BufferMemory
from .model import Model
from .native.loader import load


def estimate(
    path: str | os.PathLike[str],
    *,
    gpu_layers: int = -1,
    devices: Sequence[str] | None = None,
    **options: Any,
) -> list[BufferMemory]:
    """Return what `Model(path, …).context(**options)` would allocate, in bytes, per type of buffer.

    llama.cpp plans model and context as it would for real and allocates nothing. Weights that would be mapped
    from the file count as the CPU's. Raises ContextError where the pin cannot tell, ModelError for a file
    that is no good.
    """
    library = load()
    fields = dict(library.ffi.typeof("struct llama_model_params").fields)
    if "no_alloc" not in fields or not hasattr(library.raw, "llama_memory_report"):
        raise ContextError(
            "this build cannot say what a model would take: use pin 2026-05 or later, with the feature "
            "`memory-report`"
        )
    with (
        Model(path, gpu_layers=gpu_layers, devices=devices, no_alloc=True) as model,
        model.context(**options) as context,
    ):
        return context.memory()

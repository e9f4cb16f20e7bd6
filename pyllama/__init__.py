"""pyllama: a patched llama.cpp, built on your machine, with its whole C API and a small Python layer.

Everything is loaded on first use, so that the builder works where nothing is built yet and
importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import errors
from .errors import Error

if TYPE_CHECKING:
    from . import lib, rpc
    from .adapters import ControlVector, Lora
    from .batch import Batch
    from .checkpoint import Checkpoint
    from .context import Context
    from .device import Device, devices
    from .embeddings import Embedder, Embeddings
    from .generation import generate, stream
    from .kv import Kv, KvStats, SequenceKv
    from .logprobs import TokenLogprob
    from .memory import BufferMemory
    from .model import Model
    from .native.ffi import ffi
    from .native.installed import BuildInfo, build_info
    from .outputs import Output
    from .planning import estimate
    from .reranking import Ranked, Reranker
    from .response import Generation, Piece
    from .sampler import Sampler
    from .sampling import SamplerParams
    from .sequence import Sequence
    from .vocab import Vocab

__version__ = "0.1.0"

_HOME = {
    "Batch": "batch",
    "BufferMemory": "memory",
    "BuildInfo": "native.installed",
    "Checkpoint": "checkpoint",
    "Context": "context",
    "ControlVector": "adapters",
    "Device": "device",
    "Embedder": "embeddings",
    "Embeddings": "embeddings",
    "Generation": "response",
    "Kv": "kv",
    "KvStats": "kv",
    "Lora": "adapters",
    "Model": "model",
    "Output": "outputs",
    "Piece": "response",
    "Ranked": "reranking",
    "Reranker": "reranking",
    "Sampler": "sampler",
    "SamplerParams": "sampling",
    "Sequence": "sequence",
    "SequenceKv": "kv",
    "TokenLogprob": "logprobs",
    "Vocab": "vocab",
    "build_info": "native.installed",
    "devices": "device",
    "estimate": "planning",
    "ffi": "native.ffi",
    "generate": "generation",
    "stream": "generation",
}

__all__ = [
    "Batch",
    "BufferMemory",
    "BuildInfo",
    "Checkpoint",
    "Context",
    "ControlVector",
    "Device",
    "Embedder",
    "Embeddings",
    "Error",
    "Generation",
    "Kv",
    "KvStats",
    "Lora",
    "Model",
    "Output",
    "Piece",
    "Ranked",
    "Reranker",
    "Sampler",
    "SamplerParams",
    "Sequence",
    "SequenceKv",
    "TokenLogprob",
    "Vocab",
    "build_info",
    "devices",
    "errors",
    "estimate",
    "ffi",
    "generate",
    "lib",
    "rpc",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name in ("lib", "rpc"):
        return importlib.import_module(f".{name}", __name__)
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

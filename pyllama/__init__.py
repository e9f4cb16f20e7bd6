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
    from .asynchronous import achat, agenerate, agenerate_many, astream, astream_chat, astream_many
    from .batch import Batch
    from .cancelling import Cancel
    from .chats.chatting import chat, stream_chat
    from .chats.messages import ChatMessage, Tool, ToolCall
    from .chats.reader import ChatDelta, ChatReply
    from .chats.template import ChatTemplate, grammar_of_schema
    from .checkpoint import Checkpoint
    from .context import Context
    from .device import Device, devices
    from .drafts.draft_model import DraftModel, SelfDraft
    from .drafts.drafting import Draft, Drafter, PromptLookup
    from .embeddings import Embedder, Embeddings
    from .generation import generate, stream
    from .kv import Kv, KvStats, SequenceKv
    from .logprobs import TokenLogprob
    from .many import generate_many, stream_many
    from .memory import BufferMemory
    from .model import Model
    from .native.ffi import ffi
    from .native.installed import BuildInfo, build_info
    from .outputs import Output
    from .planning import estimate
    from .prefix import Reuse
    from .reranking import Ranked, Reranker
    from .response import Drafting, Generation, Piece
    from .sampler import Sampler
    from .sampling import GrammarTrigger, SamplerParams
    from .sequence import Sequence
    from .version import __version__ as __version__
    from .vocab import Vocab

_HOME = {
    "Batch": "batch",
    "BufferMemory": "memory",
    "BuildInfo": "native.installed",
    "Cancel": "cancelling",
    "ChatDelta": "chats.reader",
    "ChatMessage": "chats.messages",
    "ChatReply": "chats.reader",
    "ChatTemplate": "chats.template",
    "Checkpoint": "checkpoint",
    "Context": "context",
    "ControlVector": "adapters",
    "Device": "device",
    "Draft": "drafts.drafting",
    "DraftModel": "drafts.draft_model",
    "Drafter": "drafts.drafting",
    "Drafting": "response",
    "Embedder": "embeddings",
    "Embeddings": "embeddings",
    "Generation": "response",
    "GrammarTrigger": "sampling",
    "Kv": "kv",
    "KvStats": "kv",
    "Lora": "adapters",
    "Model": "model",
    "Output": "outputs",
    "Piece": "response",
    "PromptLookup": "drafts.drafting",
    "Ranked": "reranking",
    "Reranker": "reranking",
    "Reuse": "prefix",
    "Sampler": "sampler",
    "SamplerParams": "sampling",
    "SelfDraft": "drafts.draft_model",
    "Sequence": "sequence",
    "SequenceKv": "kv",
    "TokenLogprob": "logprobs",
    "Tool": "chats.messages",
    "ToolCall": "chats.messages",
    "Vocab": "vocab",
    "achat": "asynchronous",
    "agenerate": "asynchronous",
    "agenerate_many": "asynchronous",
    "astream": "asynchronous",
    "astream_chat": "asynchronous",
    "astream_many": "asynchronous",
    "build_info": "native.installed",
    "chat": "chats.chatting",
    "devices": "device",
    "estimate": "planning",
    "ffi": "native.ffi",
    "generate": "generation",
    "generate_many": "many",
    "grammar_of_schema": "chats.template",
    "stream": "generation",
    "stream_chat": "chats.chatting",
    "stream_many": "many",
    "__version__": "version",
}

__all__ = [
    "Batch",
    "BufferMemory",
    "BuildInfo",
    "Cancel",
    "ChatDelta",
    "ChatMessage",
    "ChatReply",
    "ChatTemplate",
    "Checkpoint",
    "Context",
    "ControlVector",
    "Device",
    "Draft",
    "DraftModel",
    "Drafter",
    "Drafting",
    "Embedder",
    "Embeddings",
    "Error",
    "Generation",
    "GrammarTrigger",
    "Kv",
    "KvStats",
    "Lora",
    "Model",
    "Output",
    "Piece",
    "PromptLookup",
    "Ranked",
    "Reranker",
    "Reuse",
    "Sampler",
    "SamplerParams",
    "SelfDraft",
    "Sequence",
    "SequenceKv",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "Vocab",
    "achat",
    "agenerate",
    "agenerate_many",
    "astream",
    "astream_chat",
    "astream_many",
    "build_info",
    "chat",
    "devices",
    "errors",
    "estimate",
    "ffi",
    "generate",
    "generate_many",
    "grammar_of_schema",
    "lib",
    "rpc",
    "stream",
    "stream_chat",
    "stream_many",
]


if not TYPE_CHECKING:  # a type checker would take any name for one that is there

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

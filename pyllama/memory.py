"""What a context and its model take of each device's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import ContextError
from .markup import grid, size

if TYPE_CHECKING:
    from .native.loader import Library


@dataclass(frozen=True)
class BufferMemory:
    """Bytes in buffers of one type."""

    buffer_type: str
    """ggml's name, e.g. `CPU`, `Vulkan0`, `CUDA_Host`."""
    device: str | None
    """The device that owns them; None where no device does."""
    host: bool
    """Whether it is host memory."""
    model: int
    """Weights, in bytes."""
    context: int
    """KV cells, recurrent state and saved states, in bytes."""
    compute: int
    """Intermediate results, in bytes."""

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.model + self.context + self.compute


def memory_of(library: Library, context: Any) -> list[BufferMemory]:
    """Return a row per type of buffer, in ggml's order. Raises ContextError where the pin cannot tell."""
    raw, ffi = library.raw, library.ffi
    if not hasattr(raw, "llama_memory_report"):
        raise ContextError(
            "this build cannot say what it has allocated: use pin 2026-05 or later, "
            "with the feature `memory-report`"
        )
    n = raw.llama_memory_report(context, ffi.NULL, 0)
    rows = ffi.new("struct llama_memory_report_row[]", n)
    raw.llama_memory_report(context, rows, n)
    return [
        BufferMemory(
            buffer_type=ffi.string(row.buffer_type).decode(),
            device=ffi.string(row.device).decode() if row.device else None,
            host=row.host,
            model=row.model,
            context=row.context,
            compute=row.compute,
        )
        for row in rows
    ]


def memory_html(rows: list[BufferMemory]) -> str:
    """Return the rows as a table for notebooks."""
    columns = ("memory", "model", "context", "compute", "total")
    return grid(
        columns,
        [(row.buffer_type, *map(size, (row.model, row.context, row.compute, row.total))) for row in rows],
    )

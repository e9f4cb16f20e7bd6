"""The devices that the loaded backends offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .native.loader import load

_KINDS = {
    "GGML_BACKEND_DEVICE_TYPE_CPU": "cpu",
    "GGML_BACKEND_DEVICE_TYPE_GPU": "gpu",
    "GGML_BACKEND_DEVICE_TYPE_IGPU": "igpu",
    "GGML_BACKEND_DEVICE_TYPE_ACCEL": "accel",
    "GGML_BACKEND_DEVICE_TYPE_META": "meta",
}


@dataclass(frozen=True)
class Device:
    """Something that can compute."""

    name: str
    """ggml's name, e.g. `CPU`, `Vulkan0`."""
    description: str
    """The hardware, in the driver's words."""
    backend: str
    """The backend that the device belongs to."""
    kind: str
    """`cpu`, `gpu`, `igpu`, `accel` or `meta`."""
    memory_free: int
    """Bytes; as the driver reports them."""
    memory_total: int
    """Bytes; as the driver reports them."""


def devices() -> list[Device]:
    """List every device of every loaded backend, in ggml's order."""
    library = load()
    raw = library.raw
    return [
        _describe(library.ffi, raw, raw.ggml_backend_dev_get(i)) for i in range(raw.ggml_backend_dev_count())
    ]


def _describe(ffi: Any, raw: Any, device: Any) -> Device:
    kinds = {getattr(raw, name): kind for name, kind in _KINDS.items() if hasattr(raw, name)}
    free, total = ffi.new("size_t *"), ffi.new("size_t *")
    raw.ggml_backend_dev_memory(device, free, total)
    registry = raw.ggml_backend_dev_backend_reg(device)
    return Device(
        name=_text(ffi, raw.ggml_backend_dev_name(device)),
        description=_text(ffi, raw.ggml_backend_dev_description(device)),
        backend=_text(ffi, raw.ggml_backend_reg_name(registry)),
        kind=kinds.get(raw.ggml_backend_dev_type(device), "other"),
        memory_free=int(free[0]),
        memory_total=int(total[0]),
    )


def _text(ffi: Any, value: Any) -> str:
    text: str = ffi.string(value).decode("utf-8", "replace") if value != ffi.NULL else ""
    return text

"""The devices that the loaded backends offer, and the choice of some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import UsageError
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
    return [describe(library.ffi, library.raw, handle) for handle in handles()]


def handles() -> list[Any]:
    """Return every `ggml_backend_dev_t`, in ggml's order. Asks no device anything."""
    raw = load().raw
    return [raw.ggml_backend_dev_get(i) for i in range(raw.ggml_backend_dev_count())]


def name_of(handle: Any) -> str:
    """Return ggml's name of a device."""
    library = load()
    return _text(library.ffi, library.raw.ggml_backend_dev_name(handle))


def choose(names: Sequence[str]) -> list[Any]:
    """Return the devices with these names, in that order; none for `["CPU"]`, which upstream always uses.

    Raises UsageError for a name that is not there, one that comes twice, the CPU beside others, and
    a device that holds no layers.
    """
    if isinstance(names, str):
        raise UsageError(f"devices={names!r} is one string: give a list of names, like [{names!r}]")
    raw = load().raw
    known = {name_of(handle): handle for handle in handles()}
    by_lower = {name.lower(): name for name in known}
    chosen: dict[str, Any] = {}
    for wanted in names:
        name = by_lower.get(str(wanted).lower())
        if name is None:
            raise UsageError(
                f"there is no device {wanted!r}, but {', '.join(known)}: `pyllama devices --explain` shows "
                "why one is missing"
            )
        if name in chosen:
            raise UsageError(f"device {name} is named twice: name each one once")
        chosen[name] = known[name]
    hosts = [name for name, handle in chosen.items() if _is(raw, handle, "CPU")]
    if hosts and len(chosen) > 1:
        raise UsageError(
            f"{hosts[0]} stands beside other devices: leave it out (it computes the rest), or name it alone"
        )
    for name, handle in chosen.items():
        if _is(raw, handle, "ACCEL"):
            raise UsageError(f"{name} holds no layers: leave it out, it is used by itself where it helps")
    return [] if hosts else list(chosen.values())


def _is(raw: Any, handle: Any, kind: str) -> bool:
    return bool(raw.ggml_backend_dev_type(handle) == getattr(raw, f"GGML_BACKEND_DEVICE_TYPE_{kind}"))


def describe(ffi: Any, raw: Any, device: Any) -> Device:
    """Ask a device what it is; one of another machine is asked over the network."""
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

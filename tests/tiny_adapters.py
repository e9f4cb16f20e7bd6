"""LoRA adapters and control vectors for the tiny models, written with `gguf`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy
from numpy.typing import NDArray

Weights = NDArray[numpy.float32]


def tensors_of(model: Path) -> dict[str, Weights]:
    """Return a model's tensors, the rows first."""
    return {tensor.name: numpy.array(tensor.data) for tensor in gguf.GGUFReader(model).tensors}


def write_lora(
    path: Path, pairs: Mapping[str, tuple[Weights, Weights]], *, alpha: float, architecture: str = "llama"
) -> Path:
    """Write an adapter: to each named matrix W, `alpha / rank * B @ A` is added, given as (A, B)."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, (a, b) in pairs.items():
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    _finish(writer)
    return path


def write_control_vector(path: Path, layers: Mapping[str, Weights]) -> Path:
    """Write a control vector: a row for each name, like `direction.1`."""
    writer = gguf.GGUFWriter(path, "controlvector")
    for name, values in layers.items():
        writer.add_tensor(name, values)
    _finish(writer)
    return path


def merged(model: Path, path: Path, changed: Mapping[str, Weights]) -> Path:
    """Copy a model file with other numbers in some tensors, of the same shapes."""
    path.write_bytes(model.read_bytes())
    with path.open("r+b") as file:
        for tensor in gguf.GGUFReader(model).tensors:
            if tensor.name in changed:
                file.seek(int(tensor.data_offset))
                file.write(changed[tensor.name].astype(numpy.float32).tobytes())
    return path


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

"""A model file with every tensor as 32-bit floats: no backend rounds anything when it computes with it."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy


def write_f32(model: Path, out: Path) -> Path:
    """Write the weights of `model`, dequantised, to `out`, with all its metadata."""
    reader = gguf.GGUFReader(model)
    field = reader.get_field("general.architecture")
    assert field is not None
    writer = gguf.GGUFWriter(out, str(field.contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind, *inner = field.types
        writer.add_key_value(name, field.contents(), kind, inner[-1] if inner else None)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, numpy.ascontiguousarray(values, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out

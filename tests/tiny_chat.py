"""A chat template in a model's file, for the tests of chats."""

from __future__ import annotations

from pathlib import Path

import gguf

CHATML = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}<|im_start|>assistant
"""


def with_template(model: Path, out: Path, tool_use: str | None = None) -> None:
    """Copy a model and give it a chat template, and perhaps another one for tools."""
    reader = gguf.GGUFReader(model)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(out, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types[0]
            writer.add_key_value(
                name, field.contents(), kind, field.types[1] if len(field.types) > 1 else None
            )
    named = {"default": CHATML, "tool_use": tool_use}
    writer.add_chat_template(
        CHATML if tool_use is None else [{"name": n, "template": t} for n, t in named.items() if t]
    )
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

"""`pyllama info MODEL.gguf`: what is in the file, and what it would take of each device's memory."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict
from typing import Any

from ..errors import ContextError, ModelError, UsageError
from ..gguf_file import GgufFile, Value, read
from ..markup import size
from ..memory import BufferMemory
from ..planning import estimate
from .arguments import names_in

_WIDEST = 72  # characters of a value on the terminal
_SHOWN = 4  # elements of an array


def run(args: argparse.Namespace) -> int:
    """Print what the file holds and what it would take."""
    if args.ctx is not None and args.ctx < 0:
        raise UsageError(f"--ctx {args.ctx} has to be at least 0")
    file = read(args.model)
    names = None if args.device is None else names_in("--device", args.device)
    memory: list[BufferMemory] | None = None
    reason = ""
    try:
        layers = -1 if args.gpu_layers is None else args.gpu_layers
        memory = estimate(file.path, gpu_layers=layers, devices=names, n_ctx=args.ctx or 0)
    except (ContextError, ModelError) as error:  # the oldest pin; adapters and other files of no model
        reason = str(error)
    if args.json:
        print(json.dumps(_public(file, memory), indent=1))
        return 0
    for name, value in file.metadata.items():
        print(f"{name:<44} {_short(value)}")
    print()
    types = Counter(tensor.type for tensor in file.tensors)
    for kind, count in types.most_common():
        total = sum(tensor.nbytes for tensor in file.tensors if tensor.type == kind)
        print(f"{count:>5} tensors  {kind:<8} {size(total):>12}")
    print(f"{len(file.tensors):>5} tensors  {'':<8} {size(file.nbytes):>12}  {file.n_params:,} parameters")
    if args.tensors:
        print()
        for tensor in file.tensors:
            print(f"{tensor.name:<44} {tensor.type:<8} {'×'.join(map(str, tensor.shape)):>18}")
    print()
    print(f"{'memory':<16} {'model':>12} {'context':>12} {'compute':>12} {'total':>12}")
    for row in memory or ():
        parts = (row.model, row.context, row.compute, row.total)
        print(f"{row.buffer_type:<16} {' '.join(f'{size(part):>12}' for part in parts)}")
    if memory is None:
        print(f"not known: {reason}")
    return 0


def _public(file: GgufFile, memory: list[BufferMemory] | None) -> dict[str, Any]:
    return {
        "path": str(file.path),
        "metadata": file.metadata,
        "tensors": [asdict(tensor) for tensor in file.tensors],
        "bytes": file.nbytes,
        "parameters": file.n_params,
        "memory": None if memory is None else [{**asdict(row), "total": row.total} for row in memory],
    }


def _short(value: Value) -> str:
    if isinstance(value, list):
        first = ", ".join(repr(element) for element in value[:_SHOWN])
        text = f"[{first}{', …' if len(value) > _SHOWN else ''}] ({len(value)})"
    else:
        text = str(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"

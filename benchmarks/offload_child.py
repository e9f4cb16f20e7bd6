"""Speed and device memory with a number of layers on a device; prints JSON.

offload_child.py MODEL DEVICE LAYERS TOKENS [PLUGIN]
"""

from __future__ import annotations

import json
import logging
import os
import re
import statistics
import sys
import time

import pyllama

PROMPT = list(range(100, 116))


class Keep(logging.Handler):
    """What llama.cpp says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())


def memory(said: str, device: str) -> float:
    """MiB of weights, cache and intermediate results on the device."""
    sizes = re.findall(rf"\b{device} +(?:model|KV|compute) buffer size = +([\d.]+) MiB", said)
    return sum(map(float, sizes))


def splits(said: str) -> int:
    """How often a graph for one token changes the device."""
    found = re.findall(r"splits = (\d+)(?: / (\d+)| \(with bs=\d+\), (\d+))?", said)[-1]
    return int([number for number in found if number][-1])


def main() -> None:
    """Read the arguments, decode, print."""
    path, device, layers, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if len(sys.argv) > 5:
        pyllama.lib.ggml_backend_load(os.fsencode(sys.argv[5]))
    logger, keep = logging.getLogger("pyllama"), Keep()
    logger.addHandler(keep)
    logger.setLevel(logging.DEBUG)
    with (
        pyllama.Model(path, gpu_layers=layers, devices=[device]) as model,
        model.context(n_ctx=512, n_batch=len(PROMPT)) as context,  # weights stay where they are for so few
    ):
        said = "\n".join(keep.lines)
        logger.setLevel(logging.WARNING)
        context.decode(PROMPT)
        context.decode([200])  # compiles what is for one token
        seen = []
        for i in range(tokens):
            start = time.perf_counter()
            context.decode([201 + i])
            pyllama.lib.llama_synchronize(context.ptr)
            seen.append(time.perf_counter() - start)
    print(
        json.dumps(
            {"mib": memory(said, device), "splits": splits(said), "speed": 1 / statistics.median(seen)}
        )
    )


if __name__ == "__main__":
    main()

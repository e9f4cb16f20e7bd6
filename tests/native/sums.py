"""Small tensors on a loopback device, through ggml's own functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyllama

from .loopback import Loopback

N = 1000
SIZE = 4 * N
PADDED = 4096  # to the alignment of 128


class Sum:
    """z = x + y, a thousand floats each, on one device with a stream of its own."""

    def __init__(self, loopback: Loopback, device: int = 0) -> None:
        self.backend = pyllama.lib.ggml_backend_dev_init(loopback.device(device), pyllama.ffi.NULL)
        params = pyllama.ffi.new("struct ggml_init_params *", (1 << 20, pyllama.ffi.NULL, True))
        self.context = pyllama.lib.ggml_init(params[0])
        self.x = pyllama.lib.ggml_new_tensor_1d(self.context, pyllama.lib.GGML_TYPE_F32, N)
        self.y = pyllama.lib.ggml_new_tensor_1d(self.context, pyllama.lib.GGML_TYPE_F32, N)
        self.z = pyllama.lib.ggml_add(self.context, self.x, self.y)
        self.graph = pyllama.lib.ggml_new_graph(self.context)
        pyllama.lib.ggml_build_forward_expand(self.graph, self.z)
        self.buffer = pyllama.lib.ggml_backend_alloc_ctx_tensors(self.context, self.backend)

    def free(self) -> None:
        pyllama.lib.ggml_backend_buffer_free(self.buffer)
        pyllama.lib.ggml_free(self.context)
        if self.backend is not None:
            pyllama.lib.ggml_backend_free(self.backend)

    def compute(self) -> int:
        return int(pyllama.lib.ggml_backend_graph_compute_async(self.backend, self.graph))

    def synchronize(self) -> None:
        pyllama.lib.ggml_backend_synchronize(self.backend)


@contextmanager
def sums(*made: Sum) -> Iterator[None]:
    try:
        yield
    finally:
        for one in made:
            one.free()


def floats(value: float = 0.0) -> Any:
    return pyllama.ffi.new("float[]", [value] * N)


def put(value: float, *tensors: Any) -> None:
    """Set all numbers of the tensors at once, past every stream."""
    for tensor in tensors:
        pyllama.lib.ggml_backend_tensor_set(tensor, floats(value), 0, SIZE)


def look(tensor: Any) -> float:
    """Read a tensor at once, past every stream; all its numbers are the same."""
    found = floats(float("nan"))
    pyllama.lib.ggml_backend_tensor_get(tensor, found, 0, SIZE)
    assert len(set(found)) == 1
    return float(found[0])

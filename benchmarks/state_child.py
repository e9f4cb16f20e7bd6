"""Times saves and restores of one shape, with the library that PYLLAMA_BUILD names; prints JSON.

state_child.py MODEL TOKENS FLASH_ATTENTION DEVICE
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import pyllama
from pyllama import ffi, lib

ON_DEVICE = 2
ROUNDS, SECONDS = 7, 0.4


def milliseconds(call: Callable[[], object]) -> float:
    """Return the median time of a call, of at least `ROUNDS`, within about `SECONDS`."""
    call()  # allocates, compiles shaders
    seen: list[float] = []
    start = time.perf_counter()
    while len(seen) < ROUNDS or (time.perf_counter() - start < SECONDS and len(seen) < 200):
        begin = time.perf_counter()
        call()
        seen.append((time.perf_counter() - begin) * 1e3)
        if time.perf_counter() - start > 20:
            break
    return statistics.median(seen)


def save_and_restore(context: Any, flags: int) -> dict[str, float]:
    """Milliseconds of one save and one restore of sequence 0."""
    size = lib.llama_state_seq_get_size_ext(context, 0, flags)
    blob = ffi.new("uint8_t[]", size)

    def save() -> None:
        if lib.llama_state_seq_get_data_ext(context, blob, size, 0, flags) != size:
            raise RuntimeError("the state cannot be saved")

    def restore() -> None:
        if lib.llama_state_seq_set_data_ext(context, blob, size, 0, flags) == 0:
            raise RuntimeError("the state cannot be restored")
        lib.llama_synchronize(context)

    return {"save": milliseconds(save), "restore": milliseconds(restore), "blob": size}


def plain_copy(device: str, size: int) -> float:
    """Milliseconds of one blocking copy of `size` bytes between two tensors of the device."""
    handle = lib.ggml_backend_dev_by_name(device.encode())
    params = ffi.new("struct ggml_init_params *", {"mem_size": 4096, "no_alloc": True})
    ctx = lib.ggml_init(params[0])
    pair = [lib.ggml_new_tensor_1d(ctx, lib.GGML_TYPE_F32, size // 4) for _ in range(2)]
    buffer = lib.ggml_backend_alloc_ctx_tensors_from_buft(ctx, lib.ggml_backend_dev_buffer_type(handle))
    lib.ggml_backend_buffer_clear(buffer, 1)  # else all of the source is one page of zeros, read from a cache
    found = milliseconds(lambda: lib.ggml_backend_tensor_copy(*pair))
    lib.ggml_backend_buffer_free(buffer)
    lib.ggml_free(ctx)
    return found


def read(path: str, words: list[int], **options: Any) -> Any:
    """Return the state of a sequence of `words`, computed on the CPU: lavapipe takes minutes for it."""
    with pyllama.Model(path, devices=[]) as model, model.context(**options) as context:
        context.decode(words)
        size = lib.llama_state_seq_get_size(context.ptr, 0)
        blob = ffi.new("uint8_t[]", size)
        if lib.llama_state_seq_get_data(context.ptr, blob, size, 0) != size:
            raise RuntimeError("the state cannot be saved")
        return blob


def main() -> None:
    """Read the arguments, measure, print."""
    path, tokens, flash, device = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    words = [3 + (7 * i) % 300 for i in range(tokens)]
    n_ctx = -(-(tokens + 1) // 256) * 256
    state = read(path, words, n_ctx=n_ctx, flash_attn_type=flash)
    with (
        pyllama.Model(path, devices=[device]) as model,
        model.context(n_ctx=n_ctx, flash_attn_type=flash) as context,
    ):
        if lib.llama_state_seq_set_data(context.ptr, state, len(state), 0) == 0:
            raise RuntimeError("the state cannot be restored")
        found: dict[str, Any] = {
            "host": save_and_restore(context.ptr, 0),
            "device": save_and_restore(context.ptr, ON_DEVICE),
        }
        found["bytes"] = found["host"]["blob"] - found["device"]["blob"]
        found["copy"] = plain_copy(device, found["bytes"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()

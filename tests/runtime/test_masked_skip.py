"""Attention on the CPU that skips masked cells: the same logits as the stock build's, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_builds import TestBuild

pytestmark = pytest.mark.matrix

# Sequences with holes between them, single tokens and whole ubatches: a hash after each step.
CODE = """
import hashlib
from pyllama import ffi, lib
path, cache_type, threads, unified = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"
if hasattr(lib, "LLAMA_FLASH_ATTN_TYPE_ENABLED"):
    flash = {"flash_attn_type": lib.LLAMA_FLASH_ATTN_TYPE_ENABLED}
else:
    flash = {"flash_attn": True}
said = []
with pyllama.Model(path, devices=[]) as model, model.context(
    n_ctx=4096, n_batch=256, n_ubatch=64, n_seq_max=4, kv_unified=unified, threads=threads,
    type_k=cache_type, type_v=cache_type, **flash
) as context:
    n = len(model.vocab)
    def feed(seq, tokens):
        context.sequence(seq).feed(tokens)
        row = lib.llama_get_logits_ith(context.ptr, -1)
        said.append(hashlib.sha256(bytes(ffi.buffer(row, 4 * n))).hexdigest())
    words = [20 + i * 7 % 90 for i in range(700)]
    for seq in range(4):
        feed(seq, words[: 700 - 90 * seq])
    for step in range(3):
        for seq in range(4):
            feed(seq, [30 + step])
    context.sequence(0).clear()  # what is left lies behind a hole of its size
    feed(1, words[:40])
    for step in range(3):
        feed(2, [40 + step])
    context.sequence(1).clear()
    context.sequence(3).clear()
    feed(2, [50])
    feed(0, words[:3])
print(json.dumps(said))
"""
F16, Q8_0 = 1, 8


@pytest.mark.parametrize("cache_type", [F16, Q8_0], ids=["f16", "q8_0"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ["attention", "swa"])
def test_logits_are_the_stock_ones(
    child: Callable[..., Any],
    stock_build: TestBuild,
    tiny_model: Callable[[str], Path],
    kind: str,
    threads: int,
    cache_type: int,
) -> None:
    for unified in (1, 0):
        args = [tiny_model(kind), str(cache_type), str(threads), str(unified)]
        ours = json.loads(child(CODE, *args).stdout)
        stock = json.loads(child(CODE, *args, PYLLAMA_BUILD=str(stock_build.folder)).stdout)
        assert ours == stock and len(set(ours)) > 15

"""Weights that the CPU repacks, or lays out for AMX, compute what they compute as the file has them."""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import pytest

import pyllama
from pyllama import ffi, lib

pytestmark = pytest.mark.matrix

# More tokens than AMX takes in one tile: a long prompt goes other ways than a short one.
PROMPT = (
    "The history of the city begins long before the first walls were built. Fishermen lived on the northern "
    "bank of the river, and traders came down from the hills with salt, wool and copper. In the year of the "
    "great flood"
)
# Root mean square, in standard deviations: each layout rounds activations to 8 bits in groups of its own.
# 0.04 to 0.1 were seen; with weights of another block in half a product it was 2.
LIMIT = 0.25


def logits(path: Path, tokens: int, **fields: bool) -> list[array[float]]:
    """Those after `tokens` of the prompt, and after one more."""
    found = []
    with pyllama.Model(path, devices=["CPU"], **fields) as model:
        text = model.tokenize(PROMPT)
        with model.context(n_ctx=256, threads=2) as context:
            for part in (text[:tokens], text[:1]):
                context.decode(part)
                row = lib.llama_get_logits_ith(context.ptr, -1)
                found.append(array("f", ffi.buffer(row, 4 * len(model.vocab))[:]))
    return found


def distance(one: array[float], other: array[float]) -> float:
    mean = sum(other) / len(other)
    spread = sum((value - mean) ** 2 for value in other)
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) / spread)


@pytest.fixture(scope="module")
def converted(test_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("converted")
    found = {"Q4_1": test_model}
    for kind in ("Q4_0", "Q8_0"):
        params = ffi.new("llama_model_quantize_params *", lib.llama_model_quantize_default_params())
        params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind}")
        params.allow_requantize = params.pure = True
        found[kind] = folder / f"{kind}.gguf"
        assert lib.llama_model_quantize(bytes(test_model), bytes(found[kind]), params) == 0
    return found


@pytest.mark.parametrize("tokens", [1, 5, 16, 17, 33, 40])
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_they_compute_the_same(kind: str, tokens: int, converted: dict[str, Path]) -> None:
    own = logits(converted[kind], tokens)
    plain = logits(converted[kind], tokens, use_extra_bufts=False)
    far = [distance(a, b) for a, b in zip(own, plain, strict=True)]
    assert max(far) < LIMIT, far

"""Feature sparse-reads: the bound that flash attention gets, beside the masks that it got."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_builds import TestBuild

pytestmark = pytest.mark.matrix

# A random walk of 6 sequences in 8,192 cells. Of each attention that is computed: the bound, how many cells
# the mask has, how many of a row take part at most, and rows.
CODE = """
import numpy
from pyllama import ffi, lib
seen, op_of = set(), {}

@ffi.callback("bool(struct ggml_tensor *, bool, void *)")
def note(node, ask, _):
    if op_of.setdefault(int(node.op), ffi.string(lib.ggml_op_name(node.op))) != b"FLASH_ATTN_EXT":
        return not ask
    if ask:
        return True
    mask = node.src[3]
    size = lib.ggml_nbytes(mask)
    rows = numpy.frombuffer(ffi.buffer(mask.data, size), numpy.float16).reshape(-1, mask.ne[0])
    seen.add((int(node.op_params[4]), int(mask.ne[0]), int(numpy.isfinite(rows).sum(1).max()), len(rows)))
    return True

unified = sys.argv[2] == "1"
random = numpy.random.default_rng(int(sys.argv[3]))
with pyllama.Model(sys.argv[1], devices=[]) as model, model.context(
    n_ctx=8192 if unified else 6 * 8192, n_batch=512, n_ubatch=128, n_seq_max=6, kv_unified=unified,
    flash_attn_type=lib.LLAMA_FLASH_ATTN_TYPE_ENABLED, threads=2, cb_eval=note,
) as context:
    def feed(seq, n):
        context.sequence(seq).feed(random.integers(3, 320, n).tolist())
        row = lib.llama_get_logits_ith(context.ptr, -1)
        assert numpy.isfinite(numpy.frombuffer(ffi.buffer(row, 4 * 320), numpy.float32)).all()
    def room():
        return 8192 - sum(context.sequence(i).length for i in range(6))
    for seq in range(6):
        feed(seq, int(random.integers(500, 1100)))
    for step in range(int(sys.argv[4])):
        seq, what = int(random.integers(6)), random.random()
        length = context.sequence(seq).length
        if what < 0.1:
            context.sequence(seq).clear()
        elif what < 0.2 and length and sys.argv[5] == "rewinds":
            context.sequence(seq).remove(length - length // 3)
        elif what < 0.3 and length < 1200 and unified:
            other = (seq + 1) % 6
            context.sequence(other).clear()
            context.sequence(seq).copy_to(context.sequence(other))
        else:
            n = int(random.integers(1, 4)) if what < 0.8 else int(random.integers(100, 900))
            if room() >= n:
                feed(seq, n)
    print(json.dumps(sorted(seen)))
"""
Seen = list[tuple[int, int, int, int]]


@pytest.fixture
def walk(
    child: Callable[..., Any], tiny_model: Callable[[str], Path], pin: str | None
) -> Callable[..., Seen]:
    def run(kind: str, *, unified: bool = True, seed: int = 1, steps: int = 60, **env: str) -> Seen:
        args = [
            tiny_model(kind),
            str(int(unified)),
            str(seed),
            str(steps),
            "rewinds" if kind == "attention" else "",
        ]
        found: Seen = json.loads(child(CODE, *args, **env).stdout)
        assert found
        return found

    return run


@pytest.fixture(autouse=True)
def _here(patched_build: TestBuild) -> None:
    if patched_build.pin != "2026-10":
        pytest.skip("the feature is for pin 2026-10: before it no kernel takes a bound")


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", ["attention", "swa", "hybrid"])
def test_the_bound_holds_and_is_near(walk: Callable[..., Seen], kind: str, seed: int) -> None:
    found = walk(kind, seed=seed)
    for bound, cells, most, tokens in found:
        assert bound == 0 or most <= bound <= cells // 2, "a cell that takes part would not be read"
        assert bound == 0 or (bound.bit_count() == 1 and bound >= 256 and cells >= 4096 and tokens <= 8)
        few = tokens <= 8 and cells >= 4096
        if kind != "swa" and few and 2 * max(most, 128) <= cells // 2:
            # Cells of the sequence that come later in the ubatch are counted as well.
            assert bound and bound < 2 * max(most, 256) + 16
    assert len({bound for bound, *_ in found}) > 2, "the walk saw several bounds"


def test_each_stream_is_as_good_as_alone(walk: Callable[..., Seen]) -> None:
    """A stream has the cells of one sequence: more than half of them take part."""
    assert {bound for bound, *_ in walk("attention", unified=False)} == {0}


def test_it_can_be_switched_off(walk: Callable[..., Seen]) -> None:
    assert {bound for bound, *_ in walk("attention", LLAMA_KV_SPARSE_READS="0")} == {0}

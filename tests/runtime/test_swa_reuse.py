"""swa-reuse, for which no patch is needed: a sliding window's cache stays bounded and exact, at every pin.

Long runs as speculative decoding makes them: a batch of the last token and a draft, part of which is
rejected, taken back and decoded anew. The peer is the same model with `swa_full`, which forgets nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import pytest
from exact_states import flash
from sequences import Logits, Sequences
from tiny_models import WINDOW, TinyModels

from pyllama import lib

pytestmark = pytest.mark.matrix

N_CTX = 4096
UBATCH = 32
SWA_CELLS = 256  # at most: the window of each sequence and one ubatch, rounded up
CLOSE = 0.02  # of logits spread over several units; batches of other shapes round otherwise, by 0.004

Numbers = numpy.random.Generator


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collect what llama.cpp says."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, keep = logging.getLogger("pyllama"), Keep()
    level = logger.level
    logger.addHandler(keep)
    logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        logger.removeHandler(keep)
        logger.setLevel(level)


def caches(lines: list[str]) -> list[tuple[float, int]]:
    """MiB and cells of each cache that was made: that of all tokens, then that of the window."""
    found = re.findall(r"size =\s*([\d.]+) MiB \(\s*(\d+) cells,", "\n".join(lines))
    return [(float(size), int(cells)) for size, cells in found]


def opened(path: Path, *, full: bool = False, n_seq_max: int = 1) -> Sequences:
    """A context whose cache keeps all bits of a float, so that only the order of sums can differ."""
    f32 = lib.GGML_TYPE_F32
    sizes = {"n_ctx": N_CTX, "n_batch": N_CTX, "n_ubatch": UBATCH, "n_seq_max": n_seq_max}
    options = {"kv_unified": True, "swa_full": full, "type_k": f32, "type_v": f32}
    return Sequences(path, **sizes, **options, **flash(False))


def words(numbers: Numbers, n: int) -> list[int]:
    return [int(word) for word in numbers.integers(3, 320, n)]


def reference(path: Path, text: list[int]) -> Logits:
    """The logits after each token, with nothing forgotten and nothing taken back."""
    with opened(path, full=True) as whole:
        return whole.decode(text)


def speculate(context: Sequences, text: list[int], numbers: Numbers, *, seq: int, longest: int) -> Logits:
    """Go through `text` from where the sequence ends, drafting and rejecting; the logits of what stays."""
    rows = []
    done = context.end(seq) + 1
    while done < len(text):
        draft = int(numbers.integers(1, longest + 1))
        right = min(int(numbers.integers(1, draft + 1)), len(text) - done)
        wrong = words(numbers, draft - right)
        found = context.decode([*text[done : done + right], *wrong], seq=seq)
        rows.append(found[:right])
        done += right
        assert context.remove(seq, done, -1)
        assert context.end(seq) == done - 1
    return numpy.concatenate(rows)


def first(context: Sequences, seq: int = 0) -> int:
    """The lowest position that both caches still hold."""
    return int(lib.llama_memory_seq_pos_min(context.memory, seq))


def far(a: Logits, b: Logits) -> float:
    assert a.shape == b.shape
    return float(abs(a - b).max())


@pytest.fixture(scope="module")
def path(tiny_model: TinyModels) -> Path:
    return tiny_model("swa")


def test_the_cache_of_the_window_is_bounded(path: Path) -> None:
    """By the window and the ubatch, whatever the context; with `swa_full`, those layers hold it all."""
    with logged() as lines, opened(path):
        (_, base), (small, cells) = caches(lines)
    with logged() as lines, opened(path, full=True):
        (_, whole), (large, all_cells) = caches(lines)
    assert base == whole == all_cells == N_CTX
    assert WINDOW + UBATCH <= cells <= SWA_CELLS
    assert small * 16 <= large


@pytest.mark.parametrize("longest", [4, 16, 32])
def test_a_long_speculative_run_is_exact(path: Path, longest: int) -> None:
    """3,000 tokens, ten times the cells and more, and half as many again that are rejected."""
    numbers = numpy.random.default_rng(longest)
    text = words(numbers, 3000)
    expected = reference(path, text)
    with opened(path) as context:
        found = speculate(context, text, numbers, seq=0, longest=longest)
        assert len(text) - first(context) <= SWA_CELLS
    assert float(expected.std()) > 0.3
    assert far(found, expected) < CLOSE


def test_sequences_of_different_pace_keep_their_windows(path: Path) -> None:
    """One waits while the other goes far ahead in the same cells; then it goes on where it was."""
    numbers = numpy.random.default_rng(7)
    slow, fast = words(numbers, 200), words(numbers, 2000)
    expected = {0: reference(path, slow), 1: reference(path, fast)}
    with opened(path, n_seq_max=2) as context:
        start = speculate(context, slow[:100], numbers, seq=0, longest=8)
        ahead = speculate(context, fast, numbers, seq=1, longest=16)
        rest = speculate(context, slow, numbers, seq=0, longest=8)
    assert far(ahead, expected[1]) < CLOSE
    assert far(numpy.concatenate([start, rest]), expected[0]) < CLOSE


def test_sequences_in_one_batch(path: Path) -> None:
    """Drafts of several sequences are verified together, as a server does."""
    numbers = numpy.random.default_rng(8)
    texts = {seq: words(numbers, 600) for seq in range(3)}
    expected = {seq: reference(path, text) for seq, text in texts.items()}
    with opened(path, n_seq_max=3) as context:
        done = dict.fromkeys(texts, 0)
        while min(done.values()) < 600:
            right = {seq: min(int(numbers.integers(1, 5)), 600 - at) for seq, at in done.items() if at < 600}
            batch = {
                seq: [*texts[seq][done[seq] : done[seq] + n], *words(numbers, 4)] for seq, n in right.items()
            }
            found = context.decode_all(batch)
            for seq, n in right.items():
                at = done[seq]
                assert far(found[seq][:n], expected[seq][at : at + n]) < CLOSE, (seq, at)
                done[seq] += n
                assert context.remove(seq, done[seq], -1)


def test_a_draft_over_several_ubatches_costs_the_window(path: Path) -> None:
    """The bound of the claim, and `seq_pos_min` tells. It also proves that the measure above sees a loss."""
    numbers = numpy.random.default_rng(9)
    text = words(numbers, 301)
    with opened(path) as context:
        context.decode(text[:300])
        assert 0 <= first(context) <= 300 - WINDOW
        context.decode(words(numbers, SWA_CELLS))
        assert context.remove(0, 300, -1)
        assert not 0 <= first(context) <= 300 - WINDOW
        found = context.decode(text[300:], start=300)
    assert far(found, reference(path, text)[300:]) > 10 * CLOSE

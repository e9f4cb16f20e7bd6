"""The KV cache in blocks: what is counted, what memory it takes, and what still fits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sequences import Sequences

import pyllama
from pyllama import ffi, lib
from pyllama.errors import ClosedError, ContextError, DecodeError, UsageError

pytestmark = pytest.mark.matrix

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
TinyModel = Callable[[str], Path]
Child = Callable[..., "subprocess.CompletedProcess[str]"]
CELL = 3 * 2 * 2 * 64 * 2  # bytes: layers, K and V, heads, size of a head, f16
FLASH = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED if hasattr(lib, "LLAMA_FLASH_ATTN_TYPE_ENABLED") else None


def flash(on: bool) -> dict[str, object]:
    """The field that switches flash attention, at any pin."""
    if FLASH is None:
        return {"flash_attn": on}
    return {"flash_attn_type": FLASH if on else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED}


def anonymous() -> int:
    """Bytes of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    pytest.skip("this system does not say")


def text(n: int, start: int = 20) -> list[int]:
    return [start + i % 90 for i in range(n)]


@LINUX
def test_memory_follows_what_is_in_use(tiny_model: TinyModel) -> None:
    """At the same context size: whole at once without paging, by the block with it, and back again."""
    n_ctx = 65536
    with pyllama.Model(tiny_model("attention"), devices=[]) as model:
        taken = {}
        for paged in (False, True):
            before = anonymous()
            with model.context(
                n_ctx=n_ctx, n_batch=512, kv_demand_paged=paged, threads=1, **flash(True)
            ) as context:
                taken[paged] = anonymous() - before
                stats = context.kv.stats()
                assert stats.bytes_reserved == n_ctx * CELL and stats.demand_paged is paged
                assert stats.bytes_committed == (0 if paged else n_ctx * CELL)
        assert taken[False] > 0.9 * n_ctx * CELL
        assert taken[True] < 0.05 * n_ctx * CELL

        with model.context(
            n_ctx=n_ctx, n_batch=512, kv_demand_paged=True, threads=1, **flash(True)
        ) as context:
            sequence = context.sequence()
            sequence.feed(text(16 * 512))  # what the graphs take, once
            sequence.remove(512)
            start = anonymous()
            sequence.feed(text(15 * 512))
            stats = context.kv.stats()
            assert stats.cells_used == 16 * 512 and stats.bytes_used == 16 * 512 * CELL
            assert stats.bytes_committed == stats.bytes_used  # blocks of whole pages here
            # a huge page of Python's own heap may come or go
            assert abs(anonymous() - start - 15 * 512 * CELL) < 0.25 * 15 * 512 * CELL
            sequence.remove(512)
            assert context.kv.stats().bytes_committed == 512 * CELL
            assert abs(anonymous() - start) < 0.25 * 15 * 512 * CELL
            context.clear()
            assert context.kv.stats().bytes_committed == 0
            assert lib.llama_kv_check(context.ptr)


@pytest.mark.parametrize("fa", [True, False])
def test_committed_within_a_block_of_each_tensor(tiny_model: TinyModel, fa: bool) -> None:
    """Grown token by token. Where V is transposed a cell is a column: whole pages of each row are taken."""
    with (
        pyllama.Model(tiny_model("attention"), devices=[]) as model,
        model.context(n_ctx=4096, kv_demand_paged=True, threads=1, **flash(fa)) as context,
    ):
        for n in range(1, 80):
            context.sequence().feed(text(1))
            stats = context.kv.stats()
            k = -(-n // 32) * 32 * CELL // 2  # up to the end of the block
            v = k if fa else 3 * 128 * 2 * 2048  # one page of each row holds 2048 cells
            assert stats.bytes_committed == k + v
            assert stats.blocks_used == -(-n // 32)


def test_paging_changes_no_logit(tiny_model: TinyModel) -> None:
    seen = []
    for paged in (False, True):
        with Sequences(
            tiny_model("attention"), n_ctx=512, n_seq_max=2, kv_unified=True, kv_demand_paged=paged
        ) as rows:
            found = [rows.decode(text(100)), rows.decode(text(60, 40), seq=1)]
            rows.context.sequence(0).remove(10)
            found += [rows.decode(text(70, 30)), rows.decode(text(3), seq=1)]
            rows.context.clear()
            seen.append([*found, rows.decode(text(5), seq=1)])
    assert all((a == b).all() for a, b in zip(*seen, strict=True))


def test_a_shared_prefix_is_counted_once(tiny_model: TinyModel) -> None:
    """Eight sequences with the same 1,000 tokens; freeing one returns what is its own, and no more."""
    with (
        pyllama.Model(tiny_model("attention"), devices=[]) as model,
        model.context(
            n_ctx=4096, n_seq_max=8, kv_unified=True, kv_demand_paged=True, threads=1, **flash(True)
        ) as context,
    ):
        first = context.sequence(0)
        first.feed(text(1000))
        alone = context.kv.stats()
        for i in range(1, 8):
            first.copy_to(context.sequence(i))
        shared = context.kv.stats()
        assert shared.blocks_used == alone.blocks_used == shared.blocks_shared == 32
        assert shared.bytes_committed == alone.bytes_committed
        assert all(s.blocks_shared == 32 and s.bytes_own == 0 for s in shared.sequences.values())

        context.sequence(3).feed(text(200))
        grown = context.kv.stats()
        own = grown.sequences[3].bytes_own
        assert grown.sequences[3].tokens == 1200 and own > 0
        context.sequence(3).clear()
        after = context.kv.stats()
        assert grown.bytes_committed - after.bytes_committed == own
        assert after.blocks_used == 32 and set(after.sequences) == set(range(8)) - {3}
        for i in (0, 1, 2, 4, 5, 6, 7):
            context.sequence(i).clear()
        assert context.kv.stats().bytes_committed == 0


def test_a_copy_to_another_stream_survives_its_source(tiny_model: TinyModel) -> None:
    """The copy is carried out by the next decode: what it reads must not be given back before."""
    seen = []
    for paged in (False, True):
        with Sequences(
            tiny_model("attention"), n_ctx=2048, n_seq_max=2, kv_unified=False, kv_demand_paged=paged
        ) as rows:
            rows.decode(text(300))
            rows.context.sequence(0).copy_to(rows.context.sequence(1))
            rows.context.sequence(0).clear()
            seen.append(rows.decode(text(5), seq=1))
            stats = rows.context.kv.stats()
            assert stats.cells_used == 305 and stats.sequences[1].tokens == 305
            if paged:  # of the other stream nothing, of this one only what is in use
                assert stats.bytes_committed < 600 * CELL + 2 * 3 * 128 * 4096
    assert (seen[0] == seen[1]).all()


@LINUX
def test_a_shift_leaves_no_page_behind(tiny_model: TinyModel) -> None:
    """Upstream's shift writes every cell of K, used or not."""
    with (
        pyllama.Model(tiny_model("attention"), devices=[]) as model,
        model.context(n_ctx=32768, kv_demand_paged=True, threads=1, **flash(True)) as context,
    ):
        context.sequence().feed(text(256))
        memory = lib.llama_get_memory(context.ptr)
        start = anonymous()
        lib.llama_memory_seq_rm(memory, 0, 0, 64)
        lib.llama_memory_seq_add(memory, 0, 64, -1, -64)
        context.sequence().feed(text(1))
        assert context.kv.stats().bytes_committed < 320 * CELL
        assert anonymous() - start < 32768 * CELL / 20


def test_an_aborted_decode(tiny_model: TinyModel) -> None:
    """What upstream leaves of the batch is what the table says, and the rest is given back."""
    calls = []

    @ffi.callback("bool(void *)")  # type: ignore[untyped-decorator]
    def stop(_: object) -> bool:
        calls.append(1)
        return len(calls) > 60

    with (
        pyllama.Model(tiny_model("attention"), devices=[]) as model,
        model.context(
            n_ctx=2048, n_batch=512, n_ubatch=64, kv_demand_paged=True, threads=1, **flash(True)
        ) as context,
    ):
        context.sequence().feed(text(100))
        lib.llama_set_abort_callback(context.ptr, stop, ffi.NULL)
        words = ffi.new("llama_token[]", text(512))
        assert lib.llama_decode(context.ptr, lib.llama_batch_get_one(words, 512)) == 2  # stopped
        lib.llama_set_abort_callback(context.ptr, ffi.NULL, ffi.NULL)
        assert lib.llama_kv_check(context.ptr)
        stats = context.kv.stats()
        assert stats.cells_used == context.sequence().length < 612
        assert stats.bytes_committed <= (stats.blocks_used + 1) * 32 * CELL
        context.sequence().remove(100)
        context.sequence().feed(text(20))
        assert context.kv.stats().cells_used == 120 and lib.llama_kv_check(context.ptr)


def test_a_full_cache_names_the_numbers(tiny_model: TinyModel) -> None:
    with (
        pyllama.Model(tiny_model("attention"), devices=[]) as model,
        model.context(n_ctx=2048, n_seq_max=2, kv_unified=True, kv_tokens=300, threads=1) as context,
    ):
        stats = context.kv.stats()
        assert stats.max_tokens == 300 and stats.cells_total == 512 and context.n_ctx == 2048
        assert stats.bytes_reserved == 512 * CELL
        context.sequence(0).feed(text(200))
        assert context.kv.room(1) == 100 and context.kv.fits(1, 100) and not context.kv.fits(1, 101)
        with pytest.raises(DecodeError, match=r"200 of 300 .* 100 more"):
            context.sequence(1).feed(text(101))
        context.sequence(1).feed(text(100))
        assert context.kv.room(0) == 0
        context.sequence(0).clear()
        context.sequence(1).feed(text(200))
        assert context.kv.stats().cells_used == 300


def test_a_limit_that_streams_share(tiny_model: TinyModel) -> None:
    """With demand paging each sequence may grow to the limit; without, each has its part."""
    with pyllama.Model(tiny_model("attention"), devices=[]) as model:
        for paged, most in ((True, 600), (False, 256)):
            with model.context(
                n_ctx=8192, n_seq_max=4, kv_unified=False, kv_tokens=600, kv_demand_paged=paged, threads=1
            ) as context:
                assert context.kv.room(2) == most
                context.sequence(2).feed(text(most))
                assert context.kv.room(2) == 0
                assert context.kv.room(0) == min(600 - most, most)
                assert not context.kv.fits(0, 1) or context.sequence(0).feed(text(1)) is None


@pytest.mark.parametrize("unified", [True, False])
def test_a_checkpoint_beyond_the_limit_changes_nothing(tiny_model: TinyModel, unified: bool) -> None:
    """Where it would not fit beside what the others hold, the sequence keeps what it has."""
    with Sequences(tiny_model("attention"), n_ctx=1024, n_seq_max=2, kv_unified=unified, kv_tokens=300) as s:
        one, two = s.context.sequence(0), s.context.sequence(1)
        one.feed(text(200))
        saved = one.checkpoint()
        two.feed(text(60))
        held = two.checkpoint()
        with pytest.raises(ContextError, match="free cells"):
            two.restore(saved)
        assert two.length == 60 and s.context.kv.stats().cells_used == 260
        two.restore(held)
        one.restore(saved)
        one.clear()
        two.restore(saved)
        assert two.length == 200 and s.context.kv.stats().cells_used == 200


def test_without_attention_everything_fits(tiny_model: TinyModel) -> None:
    with pyllama.Model(tiny_model("mamba2"), devices=[]) as model, model.context(n_ctx=512) as context:
        stats = context.kv.stats()
        assert stats.n_caches == 0 and stats.blocks_total == 0 and stats.sequences == {}
        assert context.kv.room() is None and context.kv.fits(0, 10**6)


@pytest.mark.parametrize("kind", ["swa", "hybrid", "hybrid-swa"])
def test_every_attention_half_is_counted(tiny_model: TinyModel, kind: str) -> None:
    with (
        pyllama.Model(tiny_model(kind), devices=[]) as model,
        model.context(n_ctx=1024, kv_demand_paged=True, threads=1, **flash(True)) as context,
    ):
        context.sequence().feed(text(300))
        stats = context.kv.stats()
        assert stats.n_caches == (1 if kind == "hybrid" else 2) and stats.demand_paged
        assert stats.sequences[0].tokens == 300
        assert 0 < stats.bytes_committed < stats.bytes_reserved
        context.clear()
        assert context.kv.stats().bytes_committed == 0 and lib.llama_kv_check(context.ptr)


def test_wrong_use(tiny_model: TinyModel) -> None:
    with pyllama.Model(tiny_model("attention"), devices=[]) as model:
        for size in (0, 7, 24, 512):
            with pytest.raises(UsageError, match=f"kv_block_size={size}"):
                model.context(n_ctx=256, kv_block_size=size)
        with pytest.raises(UsageError, match="kv_tokens=-1"):
            model.context(n_ctx=256, kv_tokens=-1)
        with model.context(n_ctx=256, kv_tokens=2**32 - 1) as most:
            assert most.kv.stats().cells_total == 256
        with model.context(n_ctx=256, kv_block_size=64) as context, model.context(n_ctx=256) as other:
            assert context.kv.stats().block_size == 64
            for call in (lambda: context.kv.room(1), lambda: context.kv.fits(-1, 1)):
                with pytest.raises(UsageError, match="there is no sequence"):
                    call()
            with pytest.raises(UsageError, match="another context"):
                context.kv.room(other.sequence())
            with pytest.raises(UsageError, match="at least 0"):
                context.kv.fits(0, -1)
            assert "blocks" in repr(context.kv)
        with pytest.raises(ClosedError):
            context.kv.stats()


def test_the_log_counts(child: Child, tiny_model: TinyModel) -> None:
    """LLAMA_KV_CACHE_DEBUG, as for upstream's own words on the cache."""
    code = """
import logging
logging.basicConfig(level=logging.DEBUG)
model = pyllama.Model(sys.argv[1], devices=[])
context = model.context(n_ctx=256, threads=1)
context.sequence().feed([20] * 40)
context.sequence().feed([20])
"""
    done = child(code, tiny_model("attention"), LLAMA_KV_CACHE_DEBUG="1")
    assert "2 of 8 blocks of 32 cells, 0 shared, 40 cells" in done.stderr

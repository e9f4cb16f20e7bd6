"""Feature kv-blocks: what random walks found, each by itself. The same operations with paging and without."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from exact_states import same
from kv_twins import Shape, Twin, memory_of, paged_mappings
from sequences import Logits

from pyllama import ffi, lib

pytestmark = [
    pytest.mark.matrix,
    pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which pages are there"),
]

TinyModel = Callable[[str], Path]
T = TypeVar("T")


def text(n: int, start: int = 20) -> list[int]:
    return [start + i % 90 for i in range(n)]


def twins(path: Path, shape: Shape, act: Callable[[Twin], T]) -> tuple[T, T]:
    """What it gives with paging, and what without; the blocks have to be as the cells are."""
    found = []
    for paged in (True, False):
        with Twin(str(path), shape, paged=paged) as twin:
            found.append(act(twin))
            assert lib.llama_kv_check(twin.ptr)
    return found[0], found[1]


def test_a_copy_is_copied_on(tiny_model: TinyModel) -> None:
    """Both copies are carried out by the next decode, when what lies between them is gone."""

    def act(twin: Twin) -> Logits:
        twin.decode(text(100), seq=0)
        twin.copy(0, 1)
        twin.copy(1, 2)
        twin.remove(1)
        twin.remove(0)
        return twin.decode(text(3), seq=2)

    assert same(*twins(tiny_model("attention"), Shape(unified=False), act))


def test_a_state_that_cannot_be_read_leaves_copies_alone(tiny_model: TinyModel) -> None:
    """A blob that ends too early clears its own cells; what a copy still has to read stays."""

    def act(twin: Twin) -> Logits:
        twin.decode(text(20, 40), seq=2)
        size = lib.llama_state_seq_get_size(twin.ptr, 2)
        blob = ffi.new("uint8_t[]", size)
        assert lib.llama_state_seq_get_data(twin.ptr, blob, size, 2) == size
        twin.decode(text(100), seq=0)
        twin.copy(0, 1)
        twin.remove(0)
        assert lib.llama_state_seq_set_data(twin.ptr, blob, size - 100, 2) == 0
        return twin.decode(text(3), seq=1)

    assert same(*twins(tiny_model("attention"), Shape(unified=False), act))


def test_a_sequence_is_copied_twice(tiny_model: TinyModel) -> None:
    """The second time it is in those cells already."""

    def act(twin: Twin) -> list[int]:
        twin.decode(text(40), seq=0)
        twin.copy(0, 1)
        twin.copy(0, 1)
        assert lib.llama_kv_check(twin.ptr)
        twin.remove(1)
        assert twin.end(1) == -1
        twin.remove(0)
        return [twin.context.kv.stats().cells_used, twin.context.kv.stats().blocks_used]

    assert twins(tiny_model("attention"), Shape(unified=True), act) == ([0, 0], [0, 0])


@pytest.mark.parametrize("fa", [True, False], ids=["flash", "no-flash"])
def test_a_shift_that_is_stopped(tiny_model: TinyModel, fa: bool) -> None:
    """It has written to cells that nobody is in."""

    @ffi.callback("bool(void *)")
    def stop(_: Any) -> bool:
        return True

    with Twin(str(tiny_model("attention")), Shape(unified=True, size=2048, flash=fa), paged=True) as twin:
        mappings = paged_mappings()
        twin.decode(text(100))
        lib.llama_memory_seq_add(twin.memory, 0, 0, -1, 5)
        lib.llama_set_abort_callback(twin.ptr, stop, ffi.NULL)
        with pytest.raises(RuntimeError, match="gave 2"):
            twin.decode(text(1))
        lib.llama_set_abort_callback(twin.ptr, ffi.NULL, ffi.NULL)
        stats = twin.context.kv.stats()
        assert stats.bytes_used <= memory_of(mappings) <= stats.bytes_committed
        assert lib.llama_kv_check(twin.ptr)


def test_pending_copies_that_nobody_reads(tiny_model: TinyModel) -> None:
    """A stream that is to be copied keeps its memory, but not when all is gone."""
    with Twin(str(tiny_model("attention")), Shape(unified=False), paged=True) as twin:
        twin.decode(text(100))
        twin.copy(0, 1)
        twin.remove(0)
        assert twin.context.kv.stats().bytes_committed > 0
        twin.remove(1)
        assert twin.context.kv.stats().bytes_committed == 0


@pytest.mark.parametrize("fa", [True, False], ids=["flash", "no-flash"])
@pytest.mark.parametrize("unified", [True, False], ids=["unified", "streams"])
def test_a_failed_decode_takes_no_memory(tiny_model: TinyModel, unified: bool, fa: bool) -> None:
    """It was tried out in many cells."""
    with Twin(str(tiny_model("attention")), Shape(unified, fa), paged=True) as twin:
        mappings = paged_mappings()
        twin.decode(text(20))
        before = twin.context.kv.stats()
        assert twin.attempt({0: text(250)})[0] == 1
        assert twin.context.kv.stats() == before
        assert before.bytes_used <= memory_of(mappings) <= before.bytes_committed
        twin.clear()
        assert twin.context.kv.stats().bytes_committed == memory_of(mappings) == 0

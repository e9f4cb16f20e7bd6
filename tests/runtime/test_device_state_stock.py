"""What upstream does at 2026-10 for LLAMA_STATE_SEQ_FLAGS_ON_DEVICE. Older pins have no such flag.

When one of these fails at a newer pin, upstream has mended it: say so in patches/device-state/README.md.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import TinyModels

import pyllama

pytestmark = pytest.mark.matrix

TESTS = Path(__file__).parents[1]
CODE = f"""
import json, sys
sys.path.append({str(TESTS)!r})
import numpy
from exact_states import ON_DEVICE, WORD, flash, restore, save
from sequences import Sequences
from native.loopback import Loopback
from pyllama import ffi, lib
loopback = Loopback(sys.argv[2])

def opened(**options):
    settings = dict(n_ctx=768, n_seq_max=3, kv_unified=True)
    return Sequences(sys.argv[1], **{{**settings, **flash(False), **options}})

def words(n, seed=5):
    return numpy.random.default_rng(seed).integers(3, 320, n).tolist()

def far(a, b):
    return float(abs(a - b).max())

def tell(**found):
    print(json.dumps(found))
"""
Stock = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def anywhere(stock_build: Any, loopback_plugin: Path, tiny_model: TinyModels, tmp_path: Path) -> Stock:
    """Run a snippet with the unpatched libraries, on the loopback device."""

    def run(code: str) -> subprocess.CompletedProcess[str]:
        words = {
            **os.environ,
            "PYLLAMA_BUILD": str(stock_build.folder),
            "PYTHONPATH": str(Path(pyllama.__file__).parents[1]),
            "GGML_NO_BACKTRACE": "1",
            "OMP_WAIT_POLICY": "passive",
        }
        command = [sys.executable, "-c", CODE + code, str(tiny_model("attention")), str(loopback_plugin)]
        return subprocess.run(command, capture_output=True, text=True, env=words, cwd=tmp_path, timeout=300)

    return run


@pytest.fixture
def stock(anywhere: Stock, stock_build: Any) -> Stock:
    """The same, where upstream has the flag."""
    if stock_build.pin in ("2025-08", "2026-05"):
        pytest.skip(f"{stock_build.pin} has no LLAMA_STATE_SEQ_FLAGS_ON_DEVICE")
    return anywhere


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr[-2000:]}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_older_pins_ignore_the_flag(anywhere: Stock, stock_build: Any) -> None:
    if stock_build.pin not in ("2025-08", "2026-05"):
        pytest.skip("upstream has the flag")
    found = told(
        anywhere("""
with opened() as s:
    s.decode(words(20))
    named = hasattr(lib, "LLAMA_STATE_SEQ_FLAGS_ON_DEVICE")
    tell(same=save(s.context, 0) == save(s.context, 0, 0), named=named)
""")
    )
    assert found == {"same": True, "named": False}


LOSS = """
with opened(type_k=getattr(lib, sys.argv[3]), type_v=getattr(lib, sys.argv[3]), **flash(True)) as s:
    s.decode(words(20))
    blob = save(s.context, 0)
    expected = s.decode([WORD])
    s.remove(0)
    s.decode(words(30, 9))
    assert restore(s.context, blob, 0) == len(blob)  # all went well, it says
    tell(error=far(s.decode([WORD]), expected))
"""


@pytest.mark.parametrize(("name", "lost"), [("Q8_0", True), ("Q4_0", True), ("F16", False)])
def test_quantized_caches_are_lost(stock: Stock, name: str, lost: bool) -> None:
    """Sizes are counted in elements, as if each were a byte of a block."""
    found = told(stock(LOSS.replace("sys.argv[3]", repr(f"GGML_TYPE_{name}"))))
    assert (found["error"] > 1) if lost else (found["error"] == 0), found


def test_more_fragments_of_the_same_size_abort(stock: Stock) -> None:
    done = stock("""
with opened() as s:
    s.decode(words(20))
    save(s.context, 0)
    s.remove(0)
    for i in range(20):  # the same number of cells, every second one
        s.decode([5 + i], seq=0)
        s.decode([6 + i], seq=1)
    save(s.context, 0)
    tell(survived=True)
""")
    assert done.returncode == -signal.SIGABRT and "not enough space in the buffer" in done.stderr, (
        done.stderr[-2000:]
    )


def test_a_context_that_never_saved_aborts(stock: Stock) -> None:
    done = stock("""
with opened() as s, opened() as other:
    s.decode(words(20))
    blob = save(s.context, 0)
    restore(other.context, blob, 0)
    tell(survived=True)
""")
    assert done.returncode == -signal.SIGABRT and "GGML_ASSERT(mem_storage" in done.stderr, done.stderr[
        -2000:
    ]


def test_a_damaged_blob_is_an_exception_through_c(stock: Stock) -> None:
    done = stock("""
with opened() as s:
    s.decode(words(20))
    blob = bytearray(save(s.context, 0))
    blob[0] ^= 1
    restore(s.context, bytes(blob), 0)
    tell(survived=True)
""")
    assert done.returncode == -signal.SIGABRT and "wrong sequence state magic" in done.stderr, done.stderr[
        -2000:
    ]


def test_the_first_blob_restores_what_was_saved_later(stock: Stock) -> None:
    found = told(
        stock("""
with opened() as s:
    s.decode(words(20))
    first = save(s.context, 0)
    right = s.decode([WORD])
    s.remove(0)
    s.decode(words(20, 9))
    save(s.context, 0)
    wrong = s.decode([WORD])
    s.remove(0)
    assert restore(s.context, first, 0) == len(first)
    found = s.decode([WORD])
    tell(to_right=far(found, right), to_wrong=far(found, wrong))
""")
    )
    assert found["to_wrong"] == 0 and found["to_right"] > 1, found


def test_a_copy_for_each_row_and_memory_that_stays(stock: Stock) -> None:
    """Three layers of 128 rows of a transposed V, and three of K."""
    found = told(
        stock("""
with opened() as s:
    s.decode(words(20))
    live = loopback.stats().live_bytes
    loopback.reset()
    blob = save(s.context, 0)
    saved = loopback.stats()
    s.remove(0)
    tell(copies=saved.copies, asynchronous=saved.async_copies, kept=loopback.stats().live_bytes - live,
         functions=[name for name in dir(lib) if "device_state" in name])
""")
    )
    assert found["copies"] == 3 * 128 + 3 and found["asynchronous"] == 0, found
    assert found["kept"] >= 20 * 3 * 2 * 128 * 2 and not found["functions"], found

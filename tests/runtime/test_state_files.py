"""Sequences in files and bytes: exact, refused when anything is wrong with them, and without half effects."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from drafted import prompt_of
from exact_states import flash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from same_bits import NAMES, options, write_same_bits

import pyllama
from pyllama import states
from pyllama.errors import ContextError, StateError, UsageError

pytestmark = pytest.mark.matrix

KINDS = ("attention", "swa", "mamba2", "rwkv7", "hybrid", "moe", "hybrid-swa", "delta", "rollback")
TEXT = list(range(40, 90))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_same_bits("hybrid", tmp_path_factory.mktemp("states"))


@pytest.fixture(scope="module")
def small(path: Path) -> Iterator[pyllama.Context]:
    with pyllama.Model(path) as model, model.context(**options(n_ctx=128)) as context:
        yield context


@pytest.fixture(scope="module")
def good(small: pyllama.Context) -> bytes:
    """A file of three tokens."""
    small.clear()
    small.sequence(0).feed([40, 41, 42])
    return bytes(small.sequence(0).dumps(tokens=[40, 41, 42]))


def logits(context: pyllama.Context, token: int, seq: int = 0) -> list[float]:
    context.sequence(seq).feed([token])
    return list(context.logits())


def far(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def unharmed(context: pyllama.Context, data: bytes, words: str) -> None:
    """`data` is refused with `words`, and what the sequence held is there, to the bit."""
    seq = context.sequence(0)
    context.clear()
    seq.feed(TEXT)
    before = seq.dumps()
    with pytest.raises(StateError, match=words):
        seq.loads(data)
    assert seq.length == len(TEXT) and seq.dumps() == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("swa_full", [True, False])
def test_the_next_logits_are_the_same(
    tiny_model: Callable[[str], Path], tmp_path: Path, kind: str, swa_full: bool
) -> None:
    """In another context, in one that holds something, and in another sequence; by file and by bytes."""
    path = tiny_model(kind)
    file = tmp_path / "state"
    moved = 0.02 if kind == "swa" and pyllama.build_info().pin == "2025-08" else 0.0  # it takes other cells
    more = {"n_ctx": 256, "threads": 1, "swa_full": swa_full}
    with pyllama.Model(path) as model:
        with model.context(**more) as context:
            context.sequence(0).feed(TEXT)
            context.sequence(0).save(file, tokens=TEXT)
            data = context.sequence(0).dumps()
            expected = logits(context, 99)
        with model.context(**more) as context:
            seq = context.sequence(0)
            assert seq.load(file) == tuple(TEXT)
            assert seq.length == len(TEXT) and far(logits(context, 99), expected) <= moved
            assert seq.loads(data) == tuple(TEXT) and far(logits(context, 99), expected) <= moved
        with model.context(n_seq_max=2, kv_unified=True, **more) as context:
            context.sequence(0).feed([50, 51])
            context.sequence(1).feed([60, 61, 62])
            context.sequence(1).load(file)
            assert (context.sequence(0).length, context.sequence(1).length) == (2, len(TEXT))
            assert far(logits(context, 99, 1), expected) < 0.02, "other cells, another order of sums"
    assert [name.name for name in tmp_path.iterdir() if not name.suffix] == ["state"], "no temporary file"


@pytest.mark.parametrize("name", NAMES)
def test_generation_goes_on_and_reads_nothing_again(tmp_path: Path, name: str) -> None:
    path = write_same_bits(name, tmp_path)
    file = tmp_path / "state"
    ask: dict[str, Any] = {"max_tokens": 12, "temperature": 0}
    prompt = prompt_of(1, 60)
    with pyllama.Model(path) as model, model.context(**options(n_ctx=256)) as context:
        first = pyllama.generate(context, prompt, **ask)
        context.sequence(0).save(file)
        longer = [*prompt, *first.tokens, 50, 51]
        expected = pyllama.generate(context, longer, **ask)
    with pyllama.Model(path) as model, model.context(**options(n_ctx=512)) as context:
        held = context.sequence(0).load(file)
        assert list(held) == longer[: len(held)] and len(held) >= len(longer) - 3
        done = pyllama.generate(context, longer, **ask)
        assert done.cached_tokens == len(held)
        assert done.tokens == expected.tokens
        again = pyllama.generate(context, [*longer[: len(held)], 60], **ask)
        assert again.cached_tokens == len(held), "a state was kept where the loaded text ended"
        with pytest.raises(UsageError, match="2 tokens were given"):
            context.sequence(0).save(file, tokens=[1, 2])
        context.decode([7])
        context.sequence(0).save(file)
        assert context.sequence(0).load(file) == (), "the text is not known any more"
        context.clear()
        with pytest.raises(ContextError, match="empty"):
            context.sequence(0).save(file)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused(small: pyllama.Context, good: bytes, place: float, bit: int) -> None:
    data = bytearray(good)
    data[int(place * len(data))] ^= 1 << bit
    with pytest.raises(StateError):
        small.sequence(0).loads(data)


def test_any_flipped_byte_of_the_header_is_refused(small: pyllama.Context, good: bytes) -> None:
    for place in [*range(700), *range(len(good) - 40, len(good))]:
        for bit in (1, 0x80):
            data = bytearray(good)
            data[place] ^= bit
            with pytest.raises(StateError):
                small.sequence(0).loads(data)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keep=st.floats(0, 1, exclude_max=True), more=st.binary(max_size=64))
def test_any_other_length_is_refused(small: pyllama.Context, good: bytes, keep: float, more: bytes) -> None:
    for data in (good[: int(keep * len(good))], good + more + b"x"):
        with pytest.raises(StateError):
            small.sequence(0).loads(data)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=300),
    length=st.integers(0, 2**32 - 1),
    begun=st.booleans(),
    signed=st.booleans(),
)
def test_garbage_is_refused(
    small: pyllama.Context, data: bytes, length: int, begun: bool, signed: bool
) -> None:
    """Also with our magic, a checksum that is right, and a header of any length."""
    if begun:
        data = struct.pack("<8sII", b"pyllama\0", 2, length) + data
    if signed:
        data += hashlib.sha256(data).digest()
    with pytest.raises(StateError):
        small.sequence(0).loads(data)


def forged(good: bytes, **changed: Any) -> bytes:
    """A file with other fields in its header, and a checksum that fits."""
    (length,) = struct.unpack_from("<I", good, 12)
    fields = {**json.loads(good[16 : 16 + length]), **changed}
    text = json.dumps(fields).encode()
    data = struct.pack("<8sII", b"pyllama\0", 2, len(text)) + text + good[16 + length : -32]
    return data + hashlib.sha256(data).digest()


def test_hostile_headers(small: pyllama.Context, good: bytes) -> None:
    small.sequence(0).loads(forged(good))
    for name in ("length", "tokens", "state"):
        for value in (-1, 2**31, 2**62 - 1, 2**64, 1.5, "3", None, [], True):
            unharmed(small, forged(good, **{name: value}), "header|holds")
    for value in (None, [], "x", {"model": 3}, {"model": None}):
        unharmed(small, forged(good, identity=value), "header")
    unharmed(small, forged(good, identity={}), "model is not given there")
    unharmed(small, forged(good, length=10**9, tokens=0), "header")
    unharmed(small, b"", "no saved sequence")


def test_a_state_that_llama_cpp_refuses(small: pyllama.Context, good: bytes) -> None:
    """All is right but the state itself: the sequence gets back what it held."""
    (length,) = struct.unpack_from("<I", good, 12)
    start = 16 + length + 4 * 3
    data = good[:start] + bytes(32) + good[start + 32 : -32]
    unharmed(small, data + hashlib.sha256(data).digest(), "cannot be restored: ")
    size = len(good) - 32 - start
    short = forged(good[: -32 - 100] + good[-32:], state=size - 100)  # noticed when most of it is restored
    unharmed(small, short, "cannot be restored: ")


def test_what_differs_is_said(path: Path, tmp_path: Path, good: bytes, small: pyllama.Context) -> None:
    other = write_same_bits("hybrid", tmp_path, seed=1)
    with pyllama.Model(other) as model, model.context(**options(n_ctx=128)) as context:
        unharmed(
            context, good, "does not fit this context: model is [0-9a-f]{12}… there and [0-9a-f]{12}… here$"
        )
    with pyllama.Model(path) as model:
        with model.context(**options(n_ctx=128, type_k=pyllama.lib.GGML_TYPE_F16)) as context:
            unharmed(context, good, "context: type_k is f32 there and f16 here$")
        with model.context(**options(n_ctx=256, n_seq_max=2)) as context:
            unharmed(context, good, "context: streams is 1 there and 2 here$")
        with model.context(**options(n_ctx=128, n_layers=3)) as context:
            unharmed(context, good, "context: layers is 4 there and 3 here$")
    identity = states.identity(small)
    for name in ("pin", "patches"):
        unharmed(small, forged(good, identity={**identity, name: "other"}), f"context: {name} is other there")


def test_what_computes_differently_is_said(tiny_model: Callable[[str], Path]) -> None:
    """Positions, experts and control vectors: the same tokens have another state there."""
    kind = "moe"
    vector = pyllama.ControlVector({1: array("f", [0.5] * 64)})

    def differs(context: pyllama.Context, data: bytes, words: str) -> None:
        with pytest.raises(StateError, match=f"does not fit this context: {words}$"):
            context.sequence(0).loads(data)

    with pyllama.Model(tiny_model(kind)) as model, model.context(n_ctx=128, threads=1) as plain:
        assert pyllama.lib.llama_model_n_embd(model.ptr) == vector.width
        plain.sequence(0).feed(TEXT)
        data = bytes(plain.sequence(0).dumps())
        used = plain.n_experts
        with model.context(n_ctx=128, threads=1, rope_freq_scale=0.25, yarn_orig_ctx=64) as context:
            differs(
                context,
                data,
                "rope_freq_scale is not given there and 0.25 here, "
                "yarn_orig_ctx is not given there and 64 here",
            )
            context.sequence(0).feed(TEXT)
            other = bytes(context.sequence(0).dumps())
            assert context.sequence(0).loads(other) is not None
            differs(plain, other, "rope_freq_scale is 0.25 there and not given here, .*")
        with model.context(n_ctx=128, threads=1, n_experts=1) as context:
            differs(context, data, f"n_experts is {used} there and 1 here")
            context.set_experts(0)
            context.sequence(0).loads(data)
        with model.context(n_ctx=128, threads=1) as context:
            context.set_control_vector(vector)
            differs(context, data, "control_vector is none there and [0-9a-f]{12}… here")
            context.sequence(0).feed(TEXT)
            mine = bytes(context.sequence(0).dumps())
            context.set_control_vector(0.5 * vector)
            differs(context, mine, "control_vector is [0-9a-f]{12}… there and [0-9a-f]{12}… here")
            context.set_control_vector(None)
            context.sequence(0).loads(data)


def test_a_file_of_before(small: pyllama.Context, good: bytes) -> None:
    """Format 1 did not say how it was computed, so nobody can tell whether it fits."""
    data = good[:8] + struct.pack("<I", 1) + good[12:-32]
    unharmed(small, data + hashlib.sha256(data).digest(), "has format 1, this pyllama reads 2: save it again")


def test_a_state_that_is_too_long(small: pyllama.Context) -> None:
    model = small.model
    with model.context(**options(n_ctx=1024)) as context:
        context.sequence(0).feed([40] * (small.n_ctx_seq + 1))
        data = context.sequence(0).dumps()
    unharmed(
        small, bytes(data), f"holds {small.n_ctx_seq + 1} tokens, a sequence here only {small.n_ctx_seq}"
    )


@pytest.mark.parametrize("kind", ["attention"])
def test_another_layout_of_v(tiny_model: Callable[[str], Path], kind: str) -> None:
    """llama.cpp's own check, in its own words; the sequence stays."""
    with pyllama.Model(tiny_model(kind)) as model:
        with model.context(n_ctx=256, threads=1, **flash(True)) as context:
            context.sequence(0).feed(TEXT)
            data = bytes(context.sequence(0).dumps())
        with model.context(n_ctx=256, threads=1, **flash(False)) as context:
            unharmed(context, data, "cannot be restored: .*V")


def test_files(small: pyllama.Context, good: bytes, tmp_path: Path) -> None:
    seq = small.sequence(0)
    seq.loads(good)
    file = tmp_path / "state"
    seq.save(file)
    first = file.read_bytes()
    assert first == good
    if hasattr(os, "getuid"):
        assert file.stat().st_mode & 0o077 == 0, "a conversation is for its owner"
    with pytest.raises(StateError, match="cannot be written"):
        seq.save(tmp_path / "missing" / "state")
    with pytest.raises(StateError, match="cannot be written"):
        seq.save(tmp_path)
    with pytest.raises(StateError, match="cannot be read: No such file"):
        seq.load(tmp_path / "missing")
    with pytest.raises(StateError, match="cannot be read"):
        seq.load(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(StateError, match="is empty"):
        seq.load(tmp_path / "empty")
    assert sorted(name.name for name in tmp_path.iterdir()) == ["empty", "state"]


def test_a_write_that_fails_leaves_the_old_file(
    small: pyllama.Context, good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seq = small.sequence(0)
    seq.loads(good)
    file = tmp_path / "state"
    file.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace", "posix_fallocate"):
        if hasattr(os, name):
            with monkeypatch.context() as patch:
                patch.setattr(os, name, full)
                with pytest.raises(StateError, match="No space left on device"):
                    seq.save(file)
            assert file.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    monkeypatch.delattr(os, "posix_fallocate", raising=False)  # macOS has none
    seq.save(file)
    assert file.read_bytes() == good


def test_a_disk_that_is_full(small: pyllama.Context, good: bytes) -> None:
    """By the real thing: writing past a mapped file's blocks would end the process by a signal."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    small.sequence(0).loads(good)
    with pytest.raises(StateError, match="cannot be written"):
        small.sequence(0).save("/dev/full/state")


def test_the_fingerprint_sees_weights(path: Path, tmp_path: Path) -> None:
    data = bytearray(path.read_bytes())
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(data)
    data[-2000] ^= 1
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(data)
    prints = []
    for file in (path, copy, changed):
        with pyllama.Model(file) as model:
            prints.append(states.fingerprint(model))
    assert prints[0] == prints[1] != prints[2]


def test_a_stream_goes_on_over_a_save(path: Path, tmp_path: Path) -> None:
    """Saving looks only: the generation under way is not disturbed."""
    with pyllama.Model(path) as model, model.context(**options(n_ctx=256)) as context:
        plain = pyllama.generate(context, TEXT, max_tokens=20, temperature=0, reuse=False)
        made = []
        for piece in pyllama.stream(context, TEXT, max_tokens=20, temperature=0, reuse=False):
            context.sequence(0).save(tmp_path / "state")
            if piece.token is not None:
                made.append(piece.token)
        assert made == list(plain.tokens)

"""Sequences, checkpoints, the cache, memory, adapters."""

from __future__ import annotations

from typing_extensions import assert_type

import pyllama
from pyllama import Checkpoint, Context, ControlVector, Kv, KvStats, Lora, Model, Sequence


def branches(model: Model, prompt: str, endings: list[str]) -> list[int]:
    """How long each continuation of one prompt is."""
    lengths: list[int] = []
    with model.context(n_ctx=256, n_seq_max=2, kv_unified=True) as context:
        sequence = context.sequence()
        assert_type(sequence, Sequence)
        sequence.feed(model.tokenize(prompt))
        with sequence.checkpoint("auto") as saved:
            assert_type(saved, Checkpoint)
            for ending in endings:
                sequence.feed(model.tokenize(ending, add_special=False))
                lengths.append(sequence.length)
                sequence.restore(saved)
        sequence.copy_to(context.sequence(1))
        sequence.clear()
    return lengths


def room(context: Context) -> int | None:
    """How many more tokens fit."""
    assert_type(context.kv, Kv)
    stats = context.kv.stats()
    assert_type(stats, KvStats)
    held = {number: one.bytes_own for number, one in stats.sequences.items()}
    assert_type(held, dict[int, int])
    assert context.kv.fits(context.sequence(0), 1)
    return context.kv.room(0)


def adapted(context: Context, lora: Lora, vector: ControlVector) -> None:
    """All ways of giving adapters."""
    context.set_loras(lora)
    context.set_loras([lora])
    context.set_loras({lora: 0.5})
    context.set_control_vector(0.5 * vector + vector)
    context.set_control_vector(None)


def machine() -> list[tuple[str, int]]:
    """What there is to compute with."""
    info = pyllama.build_info()
    assert_type(info.features, tuple[str, ...])
    return [(device.name, device.memory_free) for device in pyllama.devices()]

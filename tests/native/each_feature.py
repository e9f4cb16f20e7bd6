"""Each feature that a device could get wrong, tried on one: in a child process, with tiny models.

    each_feature.py FEATURE DEVICES PATH CPU-LOGITS

DEVICES is JSON, PATH a model. Prints a few words of what was seen. A feature that changes how something is
computed writes its logits to the file on the CPU (DEVICES is ["CPU"]), and compares with it elsewhere.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy

sys.path.append(str(Path(__file__).parents[1]))

from exact_states import WORD, flash, restore, same, save
from sequences import Logits, Sequences

import pyllama
from pyllama import lib, rpc
from pyllama.errors import DecodeError

NOISE = 0.02  # of the logits' standard deviation: the order of additions, and 16-bit products
Devices = Sequence[str] | None
Try = Callable[[Devices, str, Path], str]
TRIED: dict[str, Try] = {}
KINDS: dict[str, str] = {}


def tried(feature: str, kind: str) -> Callable[[Try], Try]:
    """Register what tries a feature with a tiny model of `kind`."""

    def register(function: Try) -> Try:
        TRIED[feature] = function
        KINDS[feature] = kind
        return function

    return register


def words(n: int, seed: int) -> list[int]:
    found: list[int] = numpy.random.default_rng(seed).integers(3, 320, n).tolist()
    return found


def exactly(devices: Devices, path: str) -> Sequences:
    """As `opened`, in streams at 2025-08: it restores into other cells, and adds in another order there."""
    return opened(devices, path, kv_unified=pyllama.build_info().pin != "2025-08")


def opened(devices: Devices, path: str, **options: object) -> Sequences:
    return Sequences(path, devices=devices, n_seq_max=2, **{"kv_unified": True, **flash(False), **options})


def by_turns(s: Sequences) -> None:
    """Two sequences whose cells lie among each other's."""
    for i, n in enumerate((7, 1, 12)):
        s.decode(words(n, i), seq=0)
        s.decode(words(n + 1, i + 9), seq=1)


@tried("recurrent-fixes", "hybrid")
def recurrent_fixes(devices: Devices, path: str, _: Path) -> str:
    with opened(devices, path) as s:
        before = s.decode(words(9, 1))
        assert s.remove(-1) and s.end() == -1
        assert same(s.decode(words(9, 1)), before)
    return "exact"


@tried("device-state", "hybrid")
def device_state(devices: Devices, path: str, _: Path) -> str:
    with exactly(devices, path) as s:
        by_turns(s)
        blob = save(s.context, 0)
        expected = s.decode([WORD])
        s.decode(words(9, 7))
        other = save(s.context, 1, 0)
        assert restore(s.context, blob, 0) == len(blob)
        assert save(s.context, 1, 0) == other, "the other sequence changed"
        assert same(s.decode([WORD]), expected)
    return "exact"


@tried("checkpoints", "hybrid")
def checkpoints(devices: Devices, path: str, _: Path) -> str:
    with exactly(devices, path) as s:
        by_turns(s)
        sequence = s.context.sequence(0)
        first = sequence.checkpoint()
        expected = s.decode([WORD])
        second = sequence.checkpoint()
        following = s.decode([WORD + 1])
        sequence.restore(first)
        assert same(s.decode([WORD]), expected)
        sequence.restore(second)
        assert same(s.decode([WORD + 1]), following)
        held = first.nbytes + second.nbytes
        first.release()
        second.release()
    return f"exact, {held} bytes"


@tried("memory-report", "attention")
def memory_report(devices: Devices, path: str, _: Path) -> str:
    with opened(devices, path) as s:
        rows = [row for row in s.context.memory() if row.context]
        assert rows
        return ", ".join(sorted(re.sub(r"\[.*\]", "", row.buffer_type) for row in rows))


@tried("layer-exit", "attention")
def layer_exit(devices: Devices, path: str, cpu: Path) -> str:
    with opened(devices, path, n_layers=1) as s:
        assert s.context.n_layers == 1
        return near(devices, s.decode(words(9, 1)), cpu)


@tried("moe-experts", "moe")
def moe_experts(devices: Devices, path: str, cpu: Path) -> str:
    with opened(devices, path) as s:
        s.context.set_experts(1)
        return near(devices, s.decode(words(9, 1)), cpu)


@tried("kv-blocks", "attention")
def kv_blocks(devices: Devices, path: str, _: Path) -> str:
    with opened(devices, path, n_ctx=512, kv_tokens=64, kv_block_size=16, kv_demand_paged=True) as s:
        s.decode(words(40, 1))
        expected = s.decode([WORD])
        sequence = s.context.sequence(1)
        assert not s.context.kv.fits(sequence, 30) and s.context.kv.fits(sequence, 16)
        try:
            sequence.feed(words(30, 2))
        except DecodeError:
            pass
        else:
            raise AssertionError("more than the limit was taken")
        s.remove(1)
        s.remove(0, 40)
        assert same(s.decode([WORD]), expected) and lib.llama_kv_check(s.context.ptr)
        paged = "demand-paged" if s.context.kv.stats().demand_paged else "allocated whole"
    return f"limit holds, {paged}"


def near(devices: Devices, logits: Logits, cpu: Path) -> str:
    """Keep the CPU's logits; compare those of others with them."""
    if devices == ["CPU"]:
        numpy.save(cpu, logits)
        return "the reference"
    expected = numpy.load(cpu)
    noise = float(numpy.sqrt(((logits - expected) ** 2).mean()) / expected.std())
    assert noise < NOISE, f"the logits differ by {noise:.4f} of their standard deviation"
    return f"noise {noise:.4f}"


def main() -> None:
    """Try one."""
    feature, named, path, cpu = sys.argv[1:]
    devices = json.loads(named)
    if any(":" in device for device in devices or ()):
        devices = [device.name for device in rpc.connect(*devices)]
    print(TRIED[feature](devices, path, Path(cpu)))


if __name__ == "__main__":
    main()

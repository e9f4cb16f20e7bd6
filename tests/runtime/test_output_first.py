"""Feature output-first: what is on the device as `n_gpu_layers` grows; ours at 2025-08, upstream's later."""

from __future__ import annotations

import json
from typing import Any

import pytest
from native.loopback import LoopbackChild
from real_builds import TestBuild
from tiny_models import TinyModels

pytestmark = pytest.mark.matrix

LAYERS = 3  # of the tiny model, beside the output layer
CODE = """
import logging, re
lines = []

class Keep(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())

logging.getLogger("pyllama").addHandler(Keep())
logging.getLogger("pyllama").setLevel(logging.DEBUG)

def look(n):
    weights = {}

    @ffi.callback("bool(struct ggml_tensor *, bool, void *)")
    def note(node, ask, _):
        for source in node.src[0], node.src[1]:
            name = ffi.string(source.name).decode() if source else ""
            if name.endswith(".weight") and source.buffer:
                weights[name] = ffi.string(lib.ggml_backend_buffer_name(source.buffer)).decode()
        return False  # no result is asked for

    del lines[:]
    settings = dict(gpu_layers=n, devices=["Loopback0"])
    with pyllama.Model(sys.argv[1], **settings) as model, model.context(n_ctx=64, cb_eval=note) as context:
        held = loopback.stats().live_bytes
        context.decode([5])
        n_vocab = len(model.vocab)
        logits = bytes(ffi.buffer(lib.llama_get_logits_ith(context.ptr, -1), 4 * n_vocab))
    said = [line.split(": ", 1)[-1].strip() for line in lines if "offload" in line]
    # the last number is that of a graph for one token: `3`, `5 / 3` or `5 (with bs=64), 3 (with bs=1)`
    graph = re.findall(r"splits = (\\d+)(?: / (\\d+)| \\(with bs=\\d+\\), (\\d+))?", "\\n".join(lines))[-1]
    splits = [int(number) for number in graph if number][-1]
    return dict(weights=weights, held=held, logits=logits.hex(), said=said, splits=splits)

print(json.dumps([look(n) for n in range(int(sys.argv[2]) + 3)]))
"""
Looks = list[dict[str, Any]]


def look(child: LoopbackChild, model: object, build: TestBuild) -> Looks:
    """What is seen with 0, 1, … `n_gpu_layers`, up to one more than there are."""
    done = child(CODE, str(model), str(LAYERS), PYLLAMA_BUILD=str(build.folder))
    found: Looks = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def ours(loopback_child: LoopbackChild, patched_build: TestBuild, tiny_model: TinyModels) -> Looks:
    return look(loopback_child, tiny_model("attention"), patched_build)


@pytest.fixture(scope="module")
def stock(loopback_child: LoopbackChild, stock_build: TestBuild, tiny_model: TinyModels) -> Looks:
    return look(loopback_child, tiny_model("attention"), stock_build)


def on_device(seen: dict[str, Any]) -> set[str]:
    """The layers with weights on the device: `output`, `0`, `1`, …; each has all of them there or none."""
    layers: dict[str, set[bool]] = {}
    for name, buffer in seen["weights"].items():
        part = name.split(".")[1] if name.startswith("blk.") else name.split("_")[0].split(".")[0]
        layers.setdefault(part, set()).add(buffer.startswith("Loopback0"))
    assert all(len(places) == 1 for places in layers.values()), seen["weights"]
    assert set(layers) == {"token", "output", *map(str, range(LAYERS))}
    return {part for part, places in layers.items() if True in places}


def output_first(n: int) -> set[str]:
    """The output layer, then the last of the others."""
    last = range(max(LAYERS + 1 - n, 0), LAYERS)
    return {"output", *map(str, last)} if n > 0 else set()


def output_last(n: int) -> set[str]:
    """What 2025-08 does by itself: the last repeating layers, and the output layer behind all of them."""
    last = range(max(LAYERS - n, 0), LAYERS)
    return {*map(str, last)} | ({"output"} if n > LAYERS else set())


def test_the_output_layer_goes_first(ours: Looks) -> None:
    assert [on_device(seen) for seen in ours] == [output_first(n) for n in range(LAYERS + 3)]
    held = [seen["held"] for seen in ours]
    assert held[0] < held[1] < held[2] < held[3] < held[4] == held[5]


def test_stock(stock: Looks, stock_build: TestBuild) -> None:
    """The defect at 2025-08; later pins have it mended."""
    order = output_last if stock_build.pin == "2025-08" else output_first
    assert [on_device(seen) for seen in stock] == [order(n) for n in range(LAYERS + 3)]


def test_fewer_splits(ours: Looks, stock: Looks, stock_build: TestBuild) -> None:
    """One change of device, where upstream's old order comes back to the CPU for the output."""
    inner = range(1, LAYERS + 1)
    assert [ours[n]["splits"] for n in inner] == [2] * LAYERS
    assert [stock[n]["splits"] for n in inner] == [3 if stock_build.pin == "2025-08" else 2] * LAYERS


def test_same_logits_wherever_it_lies(ours: Looks, stock: Looks) -> None:
    assert len({seen["logits"] for seen in ours + stock}) == 1


def test_the_log_says_so(ours: Looks, patched_build: TestBuild) -> None:
    for n, seen in enumerate(ours):
        said = "\n".join(seen["said"])
        assert ("offloading output layer to GPU" in said) == (n > 0)
        assert f"offloaded {min(n, LAYERS + 1)}/{LAYERS + 1} layers to GPU" in said
        if patched_build.pin == "2025-08":  # later pins count one too few when all are there
            assert f"offloading {min(max(n - 1, 0), LAYERS)} repeating layers to GPU" in said


def test_a_tied_output_too(
    loopback_child: LoopbackChild, patched_build: TestBuild, tiny_model: TinyModels
) -> None:
    """The token embedding is read on the CPU, and a copy of it, the output, is on the device."""
    first = look(loopback_child, tiny_model("swa"), patched_build)[1]
    assert first["weights"]["token_embd.weight"].startswith("Loopback0")  # of the two, the last in the graph
    assert not any(
        buffer.startswith("Loopback0") for name, buffer in first["weights"].items() if "blk" in name
    )

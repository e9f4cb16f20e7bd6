"""LoRA adapters against merged weights, control vectors against the formula, and who frees what."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from numpy.typing import NDArray
from tiny_adapters import merged, tensors_of, write_control_vector, write_lora

import pyllama
from pyllama import ControlVector, Lora
from pyllama.errors import ClosedError, ContextError, ModelError, UsageError

pytestmark = pytest.mark.matrix

Weights = NDArray[numpy.float32]
TOKENS = list(range(40, 60))
NAMES = ("blk.0.attn_q.weight", "blk.1.ffn_up.weight", "blk.2.attn_output.weight")
RANK, ALPHA = 4, 8.0


@pytest.fixture
def path(tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model("attention")


def _pairs(path: Path, seed: int) -> dict[str, tuple[Weights, Weights]]:
    random = numpy.random.default_rng(seed)
    weights = tensors_of(path)

    def some(*shape: int) -> Weights:
        return (random.normal(0, 0.15, shape)).astype(numpy.float32)

    return {name: (some(RANK, weights[name].shape[1]), some(weights[name].shape[0], RANK)) for name in NAMES}


def _merge(path: Path, to: Path, *parts: tuple[dict[str, tuple[Weights, Weights]], float]) -> Path:
    weights = tensors_of(path)
    for pairs, scale in parts:
        for name, (a, b) in pairs.items():
            weights[name] = weights[name] + scale * ALPHA / RANK * b @ a
    return merged(path, to, {name: weights[name] for name in NAMES})


def _logits(context: pyllama.Context) -> Weights:
    context.clear()
    context.decode(TOKENS)
    return numpy.asarray(context.logits().copy(), numpy.float32)


def _same(one: Weights, other: Weights) -> bool:
    """To the bit; but 2025-08 is brought to a new graph by another output, which moves the last bits."""
    if pyllama.build_info().pin == "2025-08":
        return bool(numpy.abs(one - other).max() < 1e-4)
    return numpy.array_equal(one, other)


def test_adapters_act_like_merged_weights(path: Path, tmp_path: Path) -> None:
    one, two = _pairs(path, 1), _pairs(path, 2)
    first = write_lora(tmp_path / "one.gguf", one, alpha=ALPHA)
    second = write_lora(tmp_path / "two.gguf", two, alpha=ALPHA)
    with (
        pyllama.Model(path) as model,
        model.context(n_ctx=128, threads=1) as context,
        model.context(n_ctx=128, threads=1) as other,
    ):
        bare = _logits(context)
        a, b = model.lora(first), model.lora(second)
        assert _same(_logits(context), bare), "loading changes nothing"
        for i, (chosen, parts) in enumerate(
            (
                (a, [(one, 1.0)]),
                ({a: 0.5}, [(one, 0.5)]),
                ([b, a], [(one, 1.0), (two, 1.0)]),
                ({a: -1.0, b: 2.0}, [(one, -1.0), (two, 2.0)]),
            )
        ):
            context.set_loras(chosen)  # type: ignore[arg-type]
            with (
                pyllama.Model(_merge(path, tmp_path / f"{i}.gguf", *parts)) as whole,
                whole.context(n_ctx=128, threads=1) as theirs,
            ):
                expected = _logits(theirs)
            got = _logits(context)
            assert numpy.abs(got - expected).max() < 0.02 < numpy.abs(got - bare).max()
            assert _same(_logits(other), bare), "another context of the model has none"
        context.set_loras([])
        assert _same(_logits(context), bare)


def test_closing_an_adapter_takes_it_out(path: Path, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "one.gguf", _pairs(path, 1), alpha=ALPHA)
    with pyllama.Model(path) as model, model.context(n_ctx=128, threads=1) as context:
        bare = _logits(context)
        lora, other = Lora(model, file), Lora(model, file)
        context.set_loras(other)
        with_one = _logits(context)
        context.set_loras([lora, other])
        assert numpy.abs(_logits(context) - with_one).max() > 0.02
        lora.close()
        assert _same(_logits(context), with_one)
        with pytest.raises(ClosedError):
            context.set_loras(lora)
        del other
        gc.collect()
        assert _same(_logits(context), with_one), "the context keeps what it uses"
        context.set_loras([])
        gc.collect()
        assert _same(_logits(context), bare)


@pytest.mark.parametrize("order", ["model", "context", "lora"])
def test_any_order_of_closing(path: Path, tmp_path: Path, order: str) -> None:
    file = write_lora(tmp_path / "one.gguf", _pairs(path, 1), alpha=ALPHA)
    for _ in range(3):
        model = pyllama.Model(path)
        context, lora = model.context(n_ctx=128, threads=1), model.lora(file)
        context.set_loras(lora)
        _logits(context)
        handles = {"model": model, "context": context, "lora": lora}
        handles.pop(order).close()
        for handle in handles.values():
            handle.close()
        assert model.closed and context.closed and lora.closed


def test_files_that_do_not_fit(path: Path, tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    pairs = _pairs(path, 1)
    good = write_lora(tmp_path / "good.gguf", pairs, alpha=ALPHA)
    name, (a, b) = next(iter(pairs.items()))
    files = {
        "is not a GGUF file": tmp_path / "text.gguf",
        "does not exist": tmp_path / "missing.gguf",
        "arch mismatch": write_lora(tmp_path / "arch.gguf", pairs, alpha=1, architecture="gemma2"),
        "does not exist in base model": write_lora(tmp_path / "name.gguf", {"x.weight": (a, b)}, alpha=1),
        "incorrect shape": write_lora(tmp_path / "shape.gguf", {name: (a[:, 1:].copy(), b)}, alpha=1),
        "adapter": path,
    }
    files["is not a GGUF file"].write_text("hello")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(good.read_bytes()[:-100])
    with pyllama.Model(path) as model, model.context(n_ctx=128, threads=1) as context:
        for words, file in files.items():
            with pytest.raises(ModelError, match=words):
                model.lora(file)
        if pyllama.build_info().pin != "2025-08":
            with pytest.raises(ModelError, match=r"cut\.gguf"):
                model.lora(cut)
        with pyllama.Model(path) as stranger, pytest.raises(ContextError, match="another model"):
            context.set_loras(stranger.lora(good))
        with pytest.raises(UsageError, match="scale"):
            context.set_loras({model.lora(good): float("nan")})
        _logits(context)


def test_a_control_vector_steers(path: Path, tmp_path: Path) -> None:
    """A huge direction at the last layer drowns everything else: the rest is the norm and the output."""
    weights = tensors_of(path)
    random = numpy.random.default_rng(3)
    v = random.normal(0, 1, 128).astype(numpy.float32)
    file = write_control_vector(tmp_path / "v.gguf", {"direction.2": v * 1e4})
    vector = ControlVector.load(file)
    assert vector.width == 128 and list(vector.layers) == [2]
    with pyllama.Model(path) as model, model.context(n_ctx=128, threads=1) as context:
        bare = _logits(context)
        context.set_control_vector(vector)
        normed = v / numpy.sqrt((v * v).mean()) * weights["output_norm.weight"]
        expected = weights["output.weight"] @ normed
        assert numpy.abs(_logits(context) - expected).max() < 0.02
        context.set_control_vector(-1.0 * vector)
        assert numpy.abs(_logits(context) + expected).max() < 0.02
        context.set_control_vector(vector + -1.0 * vector)
        assert _same(_logits(context), bare)
        context.set_control_vector(ControlVector({1: array("f", v * 5)}))
        changed = _logits(context)
        assert numpy.abs(changed - bare).max() > 0.1 and numpy.abs(changed - expected).max() > 0.1
        context.set_control_vector(None)
        assert _same(_logits(context), bare)
        context.set_control_vector(vector)
        context.set_control_vector(ControlVector({1: array("f", v * 5)}))
        assert _same(_logits(context), changed), "nothing is left of the one before"


def test_control_vectors_that_do_not_fit(path: Path, tmp_path: Path) -> None:
    row = numpy.ones(128, numpy.float32)
    for name, layers in (
        ("name", {"direction.x": row}),
        ("zero", {"direction.0": row}),
        ("other", {"blk.1.weight": row}),
        ("matrix", {"direction.1": row.reshape(2, 64)}),
        ("half", {"direction.1": row.astype(numpy.float16)}),
        ("lengths", {"direction.1": row, "direction.2": row[:64].copy()}),
    ):
        file = write_control_vector(tmp_path / f"{name}.gguf", layers)
        with pytest.raises(ModelError, match=name):
            ControlVector.load(file)
    good = ControlVector({1: array("f", row)})
    with pytest.raises(UsageError):
        ControlVector({})
    with pytest.raises(UsageError, match="cannot be added"):
        good + ControlVector({1: array("f", [1.0])})
    with pyllama.Model(path) as model, model.context(n_ctx=128, threads=1) as context:
        for wrong in (ControlVector({1: array("f", [1.0])}), ControlVector({3: array("f", row)})):
            with pytest.raises(UsageError):
                context.set_control_vector(wrong)
        _logits(context)

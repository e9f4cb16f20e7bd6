"""Options of a context that must be known before its memory is allocated."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from real_builds import TestBuild
from sequences import Logits

import pyllama
from pyllama import ffi, lib
from pyllama.context_options import OPTIONS
from pyllama.errors import ContextError, UsageError

pytestmark = pytest.mark.matrix

TinyModel = Callable[[str], Path]
TOKENS = [20, 30, 40, 50]


def last_logits(model: pyllama.Model, context: object) -> Logits:
    """The logits after TOKENS in a context of C, which is freed."""
    tokens = ffi.new("llama_token[]", TOKENS)  # the batch only points to them
    assert lib.llama_decode(context, lib.llama_batch_get_one(tokens, len(TOKENS))) == 0
    row = bytes(ffi.buffer(lib.llama_get_logits_ith(context, -1), 4 * len(model.vocab)))
    lib.llama_free(context)
    return numpy.frombuffer(row, numpy.float32)


def test_no_options_are_as_without(tiny_model: TinyModel) -> None:
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 64, 1, 1
    with pyllama.Model(tiny_model("attention")) as model:
        options = lib.llama_context_options_init()
        contexts = [
            lib.llama_init_from_model(model.ptr, params),
            lib.llama_init_from_model_with(model.ptr, params, ffi.NULL),
            lib.llama_init_from_model_with(model.ptr, params, options),
        ]
        lib.llama_context_options_free(options)
        lib.llama_context_options_free(ffi.NULL)
        first, *others = (last_logits(model, context) for context in contexts)
        assert first.std() > 0.1
        assert all(numpy.array_equal(first, other) for other in others)


def test_the_context_keeps_a_copy(tiny_model: TinyModel) -> None:
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 64, 1, 1
    with pyllama.Model(tiny_model("attention")) as model:
        options = lib.llama_context_options_init()
        made = []
        for n in (1, 2):  # the second one changes what the first was made with
            lib.llama_context_options_set_n_layer(options, n)
            made.append(lib.llama_init_from_model_with(model.ptr, params, options))
        lib.llama_context_options_free(options)
        assert [lib.llama_get_n_layer(context) for context in made] == [1, 2]
        one, two = (last_logits(model, context) for context in made)
        with model.context(n_ctx=64, threads=1, n_layers=1) as context:
            context.decode(TOKENS)
            row = bytes(ffi.buffer(lib.llama_get_logits_ith(context.ptr, -1), 4 * len(model.vocab)))
        assert numpy.array_equal(one, numpy.frombuffer(row, numpy.float32))
        assert not numpy.array_equal(one, two)


def test_what_cannot_be_made_is_null_with_a_reason(tiny_model: TinyModel) -> None:
    with pyllama.Model(tiny_model("attention")) as model:
        with pytest.raises(ContextError, match=r"n_layers=4.*the model has 3 layers"):
            model.context(n_ctx=64, n_layers=4)
        options = lib.llama_context_options_init()
        params = lib.llama_context_default_params()
        assert lib.llama_init_from_model_with(ffi.NULL, params, options) == ffi.NULL
        lib.llama_context_options_free(options)


@pytest.mark.parametrize("value", [2**40, -(2**40), "two", 1.5])
def test_a_value_that_c_cannot_hold(tiny_model: TinyModel, value: object) -> None:
    with pyllama.Model(tiny_model("attention")) as model, pytest.raises(UsageError, match="n_layers="):
        model.context(n_ctx=64, n_layers=value)


def test_every_option_has_its_setter() -> None:
    for option in OPTIONS.values():
        assert hasattr(lib, option.setter), option.feature


def test_a_build_without_the_feature_says_so(stock_build: TestBuild, tiny_model: TinyModel) -> None:
    code = """
import sys, pyllama, pyllama.errors
with pyllama.Model(sys.argv[1]) as model:
    assert model.context(n_ctx=64).n_layers == 3
    for call in (lambda: model.context(n_layers=2), lambda: model.context(n_ctx=64).set_experts(1)):
        try:
            call()
        except pyllama.errors.UsageError as error:
            print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tiny_model("attention")],
        env={
            **os.environ,
            "PYLLAMA_BUILD": str(stock_build.folder),
            "PYTHONPATH": str(Path(pyllama.__file__).parents[1]),
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    first, second = done.stdout.splitlines()
    assert "the feature layer-exit" in first and "the feature moe-experts" in second

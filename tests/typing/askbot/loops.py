"""A loop of one's own: batches, logits in place, samplers, raw functions."""

from __future__ import annotations

from array import array

import numpy
from numpy.typing import NDArray
from typing_extensions import assert_type

from pyllama import Batch, Context, Model, Output, Sampler, SamplerParams, ffi, lib
from pyllama.vocab import Detokenizer


def loop(model: Model, prompt: str) -> str:
    """Choose tokens, one of them forbidden by hand."""
    text = Detokenizer(model.vocab)
    said: list[str] = []
    params = SamplerParams(top_k=5, seed=1)
    with model.context(n_ctx=128, n_seq_max=2, kv_unified=True) as context, Sampler(params, model) as sampler:
        assert_type(context, Context)
        context.decode(model.tokenize(prompt))
        for _ in range(4):
            output = context.logits()
            assert_type(output, Output)
            row = output.numpy()
            assert_type(row, NDArray[numpy.float32])
            row[0] = -numpy.inf
            del row
            token = sampler.sample(context)
            assert_type(token, int)
            if model.vocab.is_eog(token):
                break
            said.append(text.feed(token))
            context.decode([token])
    return "".join([*said, text.finish()])


def batched(model: Model, texts: list[str]) -> list[array[float]]:
    """The last logits of each of several texts, from one decode."""
    with model.context(n_ctx=256, n_seq_max=len(texts), kv_unified=True) as context, Batch(128) as batch:
        places = [batch.extend(model.tokenize(text), seq=i) for i, text in enumerate(texts)]
        assert_type(places, list[range])
        context.decode(batch)
        return [context.logits(place[-1]).copy() for place in places]


def raw(model: Model) -> tuple[int, str]:
    """The C API, with its types."""
    params = lib.llama_context_default_params()
    params.n_ctx = 64
    n_tokens = lib.llama_vocab_n_tokens(model.vocab.ptr)
    assert_type(n_tokens, int)
    assert_type(lib.unbound(), dict[str, str])
    buffer = ffi.new("char[]", 64)
    lib.llama_model_desc(model.ptr, buffer, 64)
    return n_tokens, ffi.string(buffer).decode()

"""Wrong uses: a type checker has to find each line that is marked so, and no other one."""

from __future__ import annotations

from pathlib import Path

import pyllama
from pyllama import Batch, Context, Embedder, Model, Sampler, SamplerParams, lib


def prompts(model: Model, context: Context) -> None:
    pyllama.generate("model.gguf", "a path, and no model")  # wrong
    pyllama.generate(model, "text", 16)  # wrong
    pyllama.generate(model, "text", max_token=16)  # wrong
    pyllama.generate(model, "text", max_tokens="16")  # wrong
    pyllama.generate(model, "text", top_k=40)  # wrong
    pyllama.generate(model, "text", stop=[1])  # wrong
    text: str = pyllama.generate(model, "text")  # wrong
    print(text, pyllama.stream(context, "text").text)  # wrong
    for piece in pyllama.stream(context, "text"):
        print(piece.text + piece.token)  # wrong
        print(piece.result.text)  # wrong


def settings(model: Model) -> None:
    params = SamplerParams(temperature="hot")  # wrong
    params = SamplerParams(temp=0.5)  # wrong
    params.seed = 1  # wrong
    Sampler(model)  # wrong
    Sampler(params, model).sample()  # wrong


def objects(model: Model, context: Context) -> None:
    Model(3)  # wrong
    Model(Path("model.gguf"), devices=[0])  # wrong
    model.context(512)  # wrong
    model.context(n_ctx="512")  # wrong
    model.n_ctx_train = 512  # wrong
    print(model.close().ptr)  # wrong
    model.tokenize(b"bytes")  # wrong
    model.detokenize("text")  # wrong
    context.decode("text")  # wrong
    context.sequence("0")  # wrong
    context.set_loras("adapter.gguf")  # wrong
    context.kv.fits(0)  # wrong
    print(context.logits().row)  # wrong
    Batch("64")  # wrong
    Embedder(model, pooling=1)  # wrong
    print(pyllama.nothing)  # wrong


def raw(context: lib.llama_context_p, vocab: lib.llama_vocab_p) -> None:
    lib.llama_n_ctx(vocab)  # wrong
    lib.llama_vocab_n_tokens(context)  # wrong
    lib.llama_vocab_is_eog(vocab, "3")  # wrong
    lib.llama_no_such_function()  # wrong

"""In a process of its own: what becomes of one architecture; `python arch_child.py NAME FOLDER`.

What it finds are lines of JSON. For each number of `layers`: `same` when a context that stops there gives
what a model cut to them does, `refused` with the words, `differs` with by how much, or `alone` where there
is nothing to compare with, because llama.cpp cannot run the model that is cut; likewise for `experts`,
against a model that takes so many. Where llama.cpp ends this process, the last line says how far it came.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy
from arch_models import USED, ArchModel, learn
from numpy.typing import NDArray
from sequences import Sequences
from tiny_models import FIRST_BYTE

import pyllama
from pyllama import ffi, lib
from pyllama.errors import ContextError

Row = NDArray[numpy.float32]
TOKENS = numpy.random.default_rng(3).integers(FIRST_BYTE, FIRST_BYTE + 256, 12).tolist()
ENCODERS = {
    *("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "neo-bert", "eurobert"),
    *("modern-bert", "gemma-embedding", "t5encoder", "llama-embed"),
}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    say("learning")
    try:
        model = learn(name, folder, load)
    except ValueError as error:
        print(json.dumps({"unknown": str(error)[-300:]}))
        return
    path = model.write(folder / f"{name}-whole.gguf")
    say(f"all {model.layers} layers")
    whole = outputs(name, path)
    finite, spread = bool(numpy.isfinite(whole).all()), float(whole.std())
    print(json.dumps({"of": model.layers, "finite": finite, "spread": spread}))
    tries = [("layers", n, model.cut(n), {"n_layers": n}) for n in range(1, model.layers)]
    if model.has_experts:
        tries += [("experts", n, model.taking(n), {"n_experts": n}) for n in range(1, USED)]
    for kind, n, other, options in tries:
        say(f"{n} {kind}")
        print(json.dumps({kind: n, **compared(name, path, other, folder, **options)}), flush=True)
    say("end")


def load(path: Path) -> str:
    try:
        pyllama.Model(path).close()
    except pyllama.Error as error:
        return str(error)
    return ""


def compared(name: str, whole: Path, other: ArchModel, folder: Path, **options: int) -> dict[str, Any]:
    """Whether a context with these options gives what another model does."""
    try:
        got = outputs(name, whole, **options)
    except ContextError as error:
        return {"refused": str(error)}
    finite = bool(numpy.isfinite(got).all())
    expected = outputs_of_another(name, other.write(folder / f"{name}-other.gguf"))
    if expected is None:
        return {"alone": finite}
    if numpy.array_equal(got, expected):
        return {"same": finite}
    return {"differs": float(numpy.abs(got - expected).max())}


def outputs_of_another(name: str, path: Path) -> Row | None:
    """What another model gives; None where it cannot be loaded, or llama.cpp ends the process."""
    file = path.with_suffix(".npy")
    file.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            numpy.save(file, outputs(name, path))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return numpy.load(file) if file.exists() else None


def outputs(name: str, path: Path, **options: int) -> Row:
    """Logits, of an encoder embeddings, of each token, then of the last of them alone where it can go on."""
    if name in ENCODERS:
        return embeddings(path, **options)
    with Sequences(path, n_ctx=64, **options) as s:
        if name == "t5":
            encode(s.context)
        first = s.decode(TOKENS[:8])
        s.context.decode(TOKENS[8:11])  # asks for the last one only
        alone = numpy.frombuffer(
            ffi.buffer(lib.llama_get_logits_ith(s.context.ptr, -1), 4 * s.n_vocab), numpy.float32
        )
        return numpy.concatenate([first, alone[None, :].copy(), s.decode(TOKENS[11:])])


def embeddings(path: Path, **options: int) -> Row:
    wanted = {"embeddings": True, "pooling_type": 0, **options}
    with pyllama.Model(path) as model, model.context(n_ctx=64, threads=1, **wanted) as context:
        encode(context)
        places = [lib.llama_get_embeddings_ith(context.ptr, i) for i in range(len(TOKENS))]
        return numpy.stack([row(place, lib.llama_model_n_embd(model.ptr)) for place in places])


def encode(context: pyllama.Context) -> None:
    batch = lib.llama_batch_init(len(TOKENS), 0, 1)
    for i, token in enumerate(TOKENS):
        batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    batch.n_tokens = len(TOKENS)
    code = lib.llama_encode(context.ptr, batch)
    lib.llama_batch_free(batch)
    assert code == 0, code


def row(place: Any, n: int) -> Row:
    """A copy of n floats."""
    return numpy.frombuffer(bytes(ffi.buffer(place, 4 * n)), numpy.float32)


def say(what: str) -> None:
    print(what, flush=True)


if __name__ == "__main__":
    main()

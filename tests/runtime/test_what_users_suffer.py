"""What users of other bindings suffer from (llama-cpp-python threads in brackets) is not so here.

Tests beside this one show more of the same: devices that are not there (test_plugins, test_devices), threads
(test_handles), logs (test_logging_devices_imports), files and grammars that end the process (test_bad_models,
test_grammars, test_batches), prompts that are read again (test_generation), embeddings (test_embeddings),
tool calls in streams and schemas with gaps (test_chats, test_chat_templates, test_json_schemas).
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from native.loopback import Loopback

import pyllama
from pyllama.errors import UsageError
from pyllama.vocab import Vocab

pytestmark = pytest.mark.matrix


def test_a_gpu_that_is_not_there_is_an_error(tiny_model: Callable[[str], Path]) -> None:
    """Silently on the CPU (#300, #1315, #1693)."""
    with pytest.raises(UsageError, match="there is no device 'CUDA7'"):
        pyllama.Model(tiny_model("attention"), devices=["CUDA7"])


def test_layers_that_were_asked_for_are_on_the_device(
    loopback: Loopback, tiny_model: Callable[[str], Path]
) -> None:
    """By default every layer goes to a device where there is one, and its memory tells."""
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=256) as context:
        assert loopback.stats().live_bytes > model.size * 0.8
        if pyllama.build_info().pin != "2025-08":
            (row,) = [row for row in context.memory() if row.device == "Loopback0"]
            assert row.model > model.size * 0.8 and row.context > 0


@pytest.mark.parametrize(
    "order", list(itertools.permutations(range(5)))[::7], ids=lambda o: "".join(map(str, o))
)
def test_the_devices_memory_is_given_back(
    loopback: Loopback, tiny_model: Callable[[str], Path], order: tuple[int, ...]
) -> None:
    """Memory stays taken (#223, #434, #1442): here nothing is left, in whichever order things are closed."""
    before = loopback.stats().live_bytes
    model = pyllama.Model(tiny_model("attention"))
    one, two = model.context(n_ctx=256), model.context(n_ctx=512)
    one.sequence().feed([5, 6, 7])
    saved = one.sequence().checkpoint()
    sampler = pyllama.Sampler(pyllama.SamplerParams(dry_multiplier=1), model)
    handles: list[Any] = [model, one, two, saved, sampler]
    assert loopback.stats().live_bytes > before
    for i in order:
        handles[i].close()
    assert loopback.stats().live_bytes == before


def test_dropped_without_closing(loopback: Loopback, tiny_model: Callable[[str], Path]) -> None:
    before = loopback.stats().live_bytes
    for _ in range(3):
        model = pyllama.Model(tiny_model("attention"))
        context = model.context(n_ctx=256)
        next(pyllama.stream(context, "abc", max_tokens=5))
        pyllama.generate(model, "abc", max_tokens=5)
        model.loop = context  # type: ignore[attr-defined]
        del model, context
        gc.collect()
        assert loopback.stats().live_bytes == before


@pytest.mark.parametrize("kind", ["attention", "mamba2", "hybrid"])
def test_nothing_waits_for_the_collector(tiny_model: Callable[[str], Path], kind: str) -> None:
    """A context that is dropped is freed at once, also when it keeps something for the next generation."""
    gc.disable()
    try:
        with pyllama.Model(tiny_model(kind)) as model:
            context = model.context(n_ctx=256)
            for _ in range(2):
                pyllama.generate(context, "abc", max_tokens=3)
            context.logits().numpy()
            owned = context._owned
            del context
            assert owned.ptr is None and owned.late is None and not model._owned.children
    finally:
        gc.enable()


def test_breaking_off_computes_nothing_more(tiny_model: Callable[[str], Path]) -> None:
    """Cannot be stopped (#599, #175)."""
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=512) as context:
        for i, _ in enumerate(pyllama.stream(context, "abc", max_tokens=400, temperature=0)):
            if i == 4:
                break
        assert context.decodes == 5, "the prompt, and four tokens"
        gc.collect()
        pyllama.generate(context, "abcd", max_tokens=1)
        assert context.decodes == 6


def test_nothing_is_written_that_was_not_asked_for(
    child: Any, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Noise on stderr (#1245, #1874)."""
    code = """
with pyllama.Model(sys.argv[1]) as model, model.context(n_ctx=256) as context:
    pyllama.generate(context, "abc", max_tokens=5, logprobs=2, stop="zz")
    with pyllama.Embedder(model) as embedder:
        embedder.embed(["a", "b"])
    for wrong in (lambda: context.logits(99), lambda: context.decode([10**6])):
        try:
            wrong()
        except pyllama.errors.ContextError:
            pass
"""
    done = child(code, tiny_model("attention"))
    assert done.stdout == done.stderr == ""


def test_logits_of_a_long_prompt_take_no_memory(child: Any) -> None:
    """Logits and states fill the memory (#1542, #1732): 4,000 rows of 49,152 floats would be 786 MB."""
    code = """
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
with pyllama.Model(MODEL) as model, model.context(n_ctx=1024, n_batch=512, threads=2) as context:
    context.decode([1] * 512)
    before = resident()
    context.decode([1] * 500)
    out = context.logits()
    first = resident() - before
    views = [out.numpy() for _ in range(1000)]
    print(json.dumps([first, resident() - before]))
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("only Linux tells its memory so")
    decoded, viewed = json.loads(child(code).stdout)
    assert decoded < 50 * 2**20, "500 rows would be 98 MB"
    assert viewed < 60 * 2**20, "1,000 copies would be 197 MB"


def test_each_token_is_detokenised_once(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything again for each token (#148, #181)."""
    asked: list[int] = []
    plain = Vocab.piece

    def counting(self: Vocab, token: int, *, special: bool = False) -> bytes:
        asked.append(token)
        return plain(self, token, special=special)

    monkeypatch.setattr(Vocab, "piece", counting)
    with pyllama.Model(tiny_model("attention")) as model:
        done = pyllama.generate(model, "abc", max_tokens=300, temperature=0, stop=["never to be seen"])
    assert asked == list(done.tokens)


@pytest.mark.parametrize("kind", ["attention", "mamba2"])
def test_the_work_of_python_does_not_grow(tiny_model: Callable[[str], Path], kind: str) -> None:
    """Python calls per token: a few, the same for the 10th and for the 300th."""
    params = pyllama.SamplerParams(temperature=0, repeat_penalty=1.1, ignore_eos=True)
    with pyllama.Model(tiny_model(kind)) as model, model.context(n_ctx=512) as context:
        counts: list[int] = []
        calls = 0

        def count(frame: Any, event: str, arg: Any) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        pieces = pyllama.stream(context, "abc", max_tokens=310, params=params)
        sys.setprofile(count)
        try:
            for _ in pieces:
                counts.append(calls)
                calls = 0
        finally:
            sys.setprofile(None)
    assert len(counts) == 311
    early, late = sorted(counts[10:60])[25], sorted(counts[250:300])[25]
    assert late <= early < 64, "the first time that a token comes up takes a few more"

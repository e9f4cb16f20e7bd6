"""Drafts by a second model and by the model's own first layers, kept in step with the text."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from arch_child import load
from arch_models import learn
from drafted import N_CTX, prompt_of, run, run_fresh, same
from exact_states import flash
from same_bits import NAMES, options, write_same_bits
from tiny_models import VOCAB

import pyllama
from pyllama import DraftModel, PromptLookup, SamplerParams, SelfDraft
from pyllama.drafts.draft_model import Follower
from pyllama.errors import ClosedError, ContextError, UsageError

pytestmark = pytest.mark.matrix

ON = SamplerParams(temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, pyllama.Model]]:
    folder = tmp_path_factory.mktemp("same-bits")
    opened = {name: pyllama.Model(write_same_bits(name, folder)) for name in NAMES}
    yield opened
    for model in opened.values():
        model.close()


@pytest.mark.parametrize("drafts", NAMES)
@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_drafts(models: dict[str, pyllama.Model], name: str, drafts: str) -> None:
    """As good as it gets where it is the same model: rewound wrongly, it would draft something else."""
    with (
        models[name].context(**options(n_ctx=N_CTX)) as context,
        models[drafts].context(**options(n_ctx=N_CTX)) as helper,
        DraftModel(helper, most=5, confidence=0) as draft,
    ):
        for seed, reuse in ((1, False), (1, True), (2, True), (1, True)):
            prompt = prompt_of(seed, 20)
            plain = run_fresh(context, prompt)
            drafted = run(context, prompt, draft=draft, reuse=reuse)
            same(drafted, plain)
            found = drafted.drafting
            assert found is not None and found.drafted > 0
            if name == drafts:
                assert found.accepted == found.drafted or drafted.finish_reason == "stop"
        assert not helper.closed


def test_it_reads_no_token_twice(models: dict[str, pyllama.Model]) -> None:
    """What the draft model holds of a text is not read again, also in the next turn."""
    model = models["attention"]
    with (
        model.context(**options(n_ctx=N_CTX)) as context,
        model.context(**options(n_ctx=N_CTX)) as helper,
        DraftModel(helper, most=4, confidence=0) as draft,
    ):
        read: list[int] = []
        decode = helper.decode
        helper.decode = lambda tokens, **more: (read.append(len(tokens)), decode(tokens, **more))[1]  # type: ignore[method-assign,assignment]
        prompt = prompt_of(3, 50)
        first = run(context, prompt, draft=draft, params=ON, reuse=True)
        longer = [*prompt, *first.tokens, 50]
        second = run(context, longer, draft=draft, params=ON, reuse=True, max_tokens=10)
        assert first.drafting is not None and second.drafting is not None
        guessed = first.drafting.drafted + second.drafting.drafted
        assert sum(read) <= len(longer) + 10 + guessed and 50 <= read[0] <= 52


def test_a_model_gets_a_context_that_is_large_enough(models: dict[str, pyllama.Model]) -> None:
    model, helper = models["attention"], models["mamba2"]
    before = set(helper._owned.children)

    def made() -> list[Any]:
        return [child.ptr for child in set(helper._owned.children) - before if child.ptr is not None]

    with DraftModel(helper, confidence=0) as draft:
        for n_ctx in (256, 512, 256):
            with model.context(**options(n_ctx=n_ctx)) as context:
                drafted = run(context, prompt_of(4), draft=draft)
                same(drafted, run(context, prompt_of(4)))
                assert len(made()) == 1
        with pyllama.Model(model.path) as temporary:  # a context for one call, too
            pyllama.generate(temporary, prompt_of(4), max_tokens=5, temperature=0, draft=draft)
    assert not made()
    with model.context(**options(n_ctx=N_CTX)) as context:
        run(context, prompt_of(4), draft=draft)  # it may be used again
        assert len(made()) == 1
    draft.close()
    draft.close()
    assert not made()


@pytest.mark.parametrize("name", NAMES)
def test_a_helper_that_others_use_or_that_is_small(models: dict[str, pyllama.Model], name: str) -> None:
    with (
        models[name].context(**options(n_ctx=N_CTX)) as context,
        models[name].context(**options(n_ctx=N_CTX)) as helper,
        DraftModel(helper, most=4, confidence=0) as draft,
    ):
        prompt = prompt_of(5)
        plain = run(context, prompt, params=ON)
        pieces = pyllama.stream(context, prompt, max_tokens=60, params=ON, draft=draft, temperature=0)
        made = []
        for piece in pieces:
            if piece.token is not None:
                made.append(piece.token)
            if len(made) % 7 == 3:
                run(helper, prompt_of(6), max_tokens=2)
            if len(made) % 7 == 5:
                run(context.model.context(**options(n_ctx=N_CTX)), prompt_of(7), max_tokens=9, draft=draft)
        assert made == list(plain.tokens)
        long = prompt_of(8, helper.n_ctx_seq)
        with models[name].context(**options(n_ctx=2 * N_CTX)) as larger:
            drafted = run(larger, long, draft=draft, max_tokens=20, params=ON)
            assert len(drafted.tokens) == 20
            assert drafted.drafting is not None and drafted.drafting.drafted <= 1
        helper.close()
        with pytest.raises(ClosedError):
            run(context, prompt, draft=draft, params=ON)


def test_one_draft_for_two_contexts(models: dict[str, pyllama.Model]) -> None:
    """The larger one needs a larger helper: that of the other one stays until it is done, and then goes."""
    model = models["attention"]
    before = set(model._owned.children)

    def made() -> list[Any]:
        return [child.ptr for child in set(model._owned.children) - before if child.ptr is not None]

    prompt = prompt_of(9)
    with DraftModel(model, confidence=0) as draft:
        plain = pyllama.generate(model, prompt, max_tokens=40, params=ON).tokens
        small = pyllama.stream(model, prompt, max_tokens=40, params=ON, draft=draft)
        tokens = [next(small).token for _ in range(3)]
        large = pyllama.stream(model, prompt, max_tokens=400, params=ON, draft=draft)
        assert next(large).token == plain[0] and len(made()) == 4, "two texts, and a helper for each"
        tokens += [piece.token for piece in small if piece.token is not None]
        assert tuple(tokens) == plain and len(made()) == 2
    assert len(made()) == 2, "the text that is under way keeps its helper"
    assert [next(large).token for _ in range(39)] == list(plain[1:])
    large.close()  # type: ignore[attr-defined]
    assert not made()


def test_one_draft_in_several_threads(models: dict[str, pyllama.Model]) -> None:
    model = models["hybrid"]
    plain = [pyllama.generate(model, prompt_of(i), max_tokens=30, params=ON).tokens for i in range(4)]
    found: dict[int, list[Any]] = {i: [] for i in range(4)}
    with DraftModel(model, confidence=0) as draft:

        def work(i: int) -> None:
            for more in range(4):
                done = pyllama.generate(
                    model, prompt_of(i), max_tokens=30 + 50 * more, params=ON, draft=draft
                )
                found[i].append(done.tokens[:30])
                if i == 0:
                    draft.close()

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert found == {i: [plain[i]] * 4 for i in range(4)}


def test_a_state_of_another_text_is_not_gone_back_to(models: dict[str, pyllama.Model]) -> None:
    """Two texts of one length: after the second one the state that was saved is of that one."""
    model = models["hybrid"]
    one, other = prompt_of(11, 30), prompt_of(12, 30)
    with model.context(**options(n_ctx=N_CTX)) as used, model.context(**options(n_ctx=N_CTX)) as fresh:
        follower, expected = Follower(used, 0.0), Follower(fresh, 0.0)
        follower.propose(one, 4, "one")
        for text in (other, [*other, 50]):
            assert follower.propose(text, 4, "other") == expected.propose(text, 4, "other")
        follower.close()
        expected.close()


def test_text_that_the_helper_cannot_read(models: dict[str, pyllama.Model], tmp_path: Path) -> None:
    """A token that it does not have, a cache that is full: there are no drafts any more, and no error."""
    model = models["attention"]
    with (
        pyllama.Model(write_same_bits("attention", tmp_path, vocab=VOCAB - 4)) as small,
        model.context(**options(n_ctx=N_CTX)) as context,
        DraftModel(small, confidence=0) as draft,
    ):
        last = len(small.vocab)
        assert last < len(model.vocab)
        for prompt in ([*prompt_of(13), last], [last, *prompt_of(13)]):
            drafted = run(context, prompt, draft=draft, params=ON)
            same(drafted, run(context, prompt, params=ON))
            assert drafted.drafting is not None and drafted.drafting.drafted == 0
    with (
        model.context(**options(n_ctx=N_CTX)) as context,
        model.context(**options(n_ctx=N_CTX, kv_tokens=32)) as helper,
        DraftModel(helper, confidence=0) as draft,
    ):
        drafted = run(context, prompt_of(14), draft=draft, params=ON)
        same(drafted, run(context, prompt_of(14), params=ON))
        assert drafted.drafting is not None and drafted.drafting.drafted > 0


def test_confidence_ends_a_draft(models: dict[str, pyllama.Model]) -> None:
    model = models["attention"]
    lengths = {}
    for confidence in (0.0, 0.5, 0.999):
        with (
            model.context(**options(n_ctx=N_CTX)) as context,
            DraftModel(model, confidence=confidence) as draft,
        ):
            lengths[confidence] = sum(
                len(draft.start(context).propose(prompt_of(seed), 8)) for seed in range(20)
            )
    assert 20 * 8 >= lengths[0.0] > lengths[0.5] > lengths[0.999]


@pytest.mark.parametrize("name", NAMES)
def test_self_draft(models: dict[str, pyllama.Model], name: str) -> None:
    model = models[name]
    with model.context(**options(n_ctx=N_CTX)) as context:
        layers = context.n_layers
        for n in range(1, layers):
            with SelfDraft(n, most=4, confidence=0) as draft:
                for seed in (1, 2):
                    plain = run_fresh(context, prompt_of(seed))
                    drafted = run(context, prompt_of(seed), draft=draft, reuse=True)
                    same(drafted, plain)
                    assert drafted.drafting is not None and drafted.drafting.drafted > 0
        for n in (0, layers, layers + 1, -1):
            with pytest.raises(UsageError, match=f"give 1 to {layers - 1}"):
                run(context, prompt_of(1), draft=SelfDraft(n))


def test_an_architecture_that_cannot_stop_early(tmp_path: Path, patched_build: Any) -> None:
    """MiniCPM3's scale depends on the number of layers: layer-exit refuses it."""
    path = tmp_path / "minicpm3.gguf"
    learn("minicpm3", tmp_path, load).write(path)
    with (
        pyllama.Model(path) as model,
        model.context(n_ctx=64, threads=1) as context,
        pytest.raises(ContextError, match="no context with"),
    ):
        run(context, [5, 6, 7], draft=SelfDraft(1), max_tokens=2)


def test_vocabularies(models: dict[str, pyllama.Model], model: pyllama.Model, tmp_path: Path) -> None:
    tiny = models["attention"]
    with tiny.context(**options(n_ctx=N_CTX)) as context:
        with pytest.raises(UsageError, match=r"cannot draft for .*: it has another kind of vocabulary"):
            run(context, prompt_of(1), draft=DraftModel(model))
        with pytest.raises(UsageError, match="a context cannot draft for itself"):
            run(context, prompt_of(1), draft=DraftModel(context))
        with (
            pyllama.Model(other_vocabulary(tiny.path, tmp_path)) as other,
            pytest.raises(UsageError, match=r"token \d+ is b'l' there and b'k' here"),
        ):
            run(context, prompt_of(1), draft=DraftModel(other))


def other_vocabulary(path: Path, folder: Path) -> Path:
    """The same model with two tokens of the vocabulary exchanged."""
    data = bytearray(path.read_bytes())
    place = data.index(b"\x01\0\0\0\0\0\0\0k\x01\0\0\0\0\0\0\0l")
    data[place + 8], data[place + 17] = data[place + 17], data[place + 8]
    made = folder / "other.gguf"
    made.write_bytes(data)
    return made


def test_wrong_values(models: dict[str, pyllama.Model]) -> None:
    for bad in ({"most": 0}, {"most": 1000}, {"confidence": 1.0}, {"confidence": -0.1}):
        with pytest.raises(UsageError):
            DraftModel(models["attention"], **bad)  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            SelfDraft(1, **bad)  # type: ignore[arg-type]


def test_the_real_model(model: pyllama.Model) -> None:
    """Words that repeat: fewer decodes, the same text. Flash attention computes a batch as single tokens."""
    text = "The miller carries sacks of flour to the cart, and the horse waits in the shade of the oak tree. "
    with model.context(n_ctx=256, threads=1, **flash(True)) as context:
        plain = pyllama.generate(context, text * 3, max_tokens=32, temperature=0, reuse=False)
        before = context.decodes
        drafted = pyllama.generate(
            context, text * 3, max_tokens=32, temperature=0, reuse=False, draft=PromptLookup()
        )
        same(drafted, plain)
        assert drafted.drafting is not None
        assert context.decodes - before == 1 + 31 - drafted.drafting.accepted
        assert drafted.drafting.accepted > 10

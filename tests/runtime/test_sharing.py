"""One object used from two places: two generations on a context, a close during a call."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import pyllama
from pyllama.errors import ClosedError, ContextError


def test_a_second_generation_on_a_context_ends_the_first_with_an_error(test_model: Path) -> None:
    with pyllama.Model(test_model) as model, model.context(n_ctx=256) as context:
        alone = pyllama.generate(context, "Once upon a time", max_tokens=6, temperature=0).text
        first = pyllama.stream(context, "The capital of France", max_tokens=6, temperature=0)
        next(first)
        second = pyllama.stream(context, "Once upon a time", max_tokens=6, temperature=0)
        text = next(second).text
        with pytest.raises(ContextError, match="one context per generation"):
            next(first)
        assert text + "".join(piece.text for piece in second) == alone


def test_close_waits_for_contexts_that_are_being_made(test_model: Path) -> None:
    for _ in range(10):
        model = pyllama.Model(test_model)
        made: list[pyllama.Context] = []
        refused: list[Exception] = []

        def make(model: pyllama.Model = model, made: list[pyllama.Context] = made) -> None:
            try:
                made.append(model.context(n_ctx=64))
            except ClosedError as error:
                refused.append(error)  # noqa: B023 - the threads end in this round

        threads = [threading.Thread(target=make) for _ in range(3)]
        for thread in threads:
            thread.start()
        model.close()
        for thread in threads:
            thread.join()
        assert len(made) + len(refused) == 3
        assert all(context.closed for context in made)

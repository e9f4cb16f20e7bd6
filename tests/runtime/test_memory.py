"""What a context says of its memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from native.loopback import Loopback

import pyllama
from pyllama.errors import ContextError

pytestmark = pytest.mark.matrix


def test_saved_states_are_in_the_breakdown(loopback: Loopback, tiny_model: Callable[[str], Path]) -> None:
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=512) as context:
        if pyllama.build_info().pin == "2025-08":
            with pytest.raises(ContextError, match="pin 2026-05"):
                context.memory()
            return

        def on_device() -> int:
            rows = [row for row in context.memory() if row.device == "Loopback0"]
            assert len(rows) == 1 and not rows[0].host
            assert rows[0].total == rows[0].model + rows[0].context + rows[0].compute
            return rows[0].context

        before = on_device()
        assert before == 512 * 3 * 2 * 2 * 64 * 2  # tokens, layers, K and V, heads, size, bytes
        context.sequence().feed(list(range(20, 50)))
        with context.sequence().checkpoint() as saved:
            assert saved.nbytes == 30 * 3 * 2 * 2 * 64 * 2
            assert on_device() == before + saved.nbytes
        assert on_device() == before
        assert any(row.host for row in context.memory())

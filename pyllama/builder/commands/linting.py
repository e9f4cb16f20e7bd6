"""`patches lint` and `patches lock`: is the stack as it should be?"""

from __future__ import annotations

from .arguments import Subparsers


def add_actions(actions: Subparsers) -> None:
    """Add them to the actions of `patches`."""

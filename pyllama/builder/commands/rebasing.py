"""`patches rebase`: how the stack would fare on another upstream."""

from __future__ import annotations

from .arguments import Subparsers


def add_actions(actions: Subparsers) -> None:
    """Add them to the actions of `patches`."""

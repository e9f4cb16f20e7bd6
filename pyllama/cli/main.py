"""Entry point of `pyllama`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .. import __version__
from ..builder.commands import add_commands, run_command
from . import devices, info, rpc_server, run


def parser() -> argparse.ArgumentParser:
    """Return the parser of `pyllama`."""
    top = argparse.ArgumentParser(prog="pyllama", description="Run a patched llama.cpp from Python.")
    top.add_argument("--version", action="version", version=f"pyllama {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_commands(commands)
    for module in (info, devices, run, rpc_server):
        module.add_command(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 for an error, 2 for wrong usage."""
    return run_command(parser().parse_args(argv))

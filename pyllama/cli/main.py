"""Entry point: parse, run, and turn errors into one sentence on stderr."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from ..builder.commands import add_commands
from ..errors import Error, UsageError
from . import devices, info, run


def parser() -> argparse.ArgumentParser:
    """Return the parser of `pyllama`."""
    top = argparse.ArgumentParser(prog="pyllama", description="Run a patched llama.cpp from Python.")
    top.add_argument("--version", action="version", version=f"pyllama {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_commands(commands)
    for module in (info, devices, run):
        module.add_command(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 for an error, 2 for wrong usage."""
    args = parser().parse_args(argv)
    try:
        return int(args.run(args))
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except ValueError as error:  # options out of range
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; Python would complain when flushing
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130

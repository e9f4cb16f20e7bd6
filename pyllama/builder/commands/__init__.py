"""The build-time commands: `pins`, `fetch`, `patches`, `build`, `verify`.

They are part of `pyllama …` and, where nothing is built yet, all of `python -m pyllama.builder`.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from contextlib import suppress

from ...errors import Error, UsageError
from . import building, patches, pins, verifying
from .arguments import Subparsers


def add_commands(commands: Subparsers) -> None:
    """Add the build-time commands to a parser's subcommands."""
    for module in (pins, patches, building, verifying):
        module.add_commands(commands)


def run_command(args: argparse.Namespace) -> int:
    """Run a parsed command; an error is one sentence on stderr, with exit code 1, or 2 for wrong usage."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model may write what the terminal cannot show
    try:
        code = int(args.run(args))
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # the reader has gone
        _drop_stdout()
        return 1
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error}", file=sys.stderr)
        _drop_stdout()
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def _drop_stdout() -> None:
    """Send what is still to be written nowhere; Python would complain about it at exit."""
    with suppress(AttributeError, OSError):  # no stdout, or one that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

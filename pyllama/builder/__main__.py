"""`python -m pyllama.builder`: the build-time commands, with no native module needed."""

from __future__ import annotations

import argparse
import sys

from .commands import add_commands, run_command


def main() -> int:
    """Run one command and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pyllama.builder", description=__doc__)
    add_commands(parser.add_subparsers(dest="command", metavar="COMMAND", required=True))
    return run_command(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())

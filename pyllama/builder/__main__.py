"""`python -m pyllama.builder`: the build-time commands, with no native module needed."""

from __future__ import annotations

import argparse
import sys

from ..errors import Error, UsageError
from .commands import add_commands


def main() -> int:
    """Run one command; errors are one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m pyllama.builder", description=__doc__)
    add_commands(parser.add_subparsers(dest="command", metavar="COMMAND", required=True))
    args = parser.parse_args()
    try:
        return int(args.run(args))
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

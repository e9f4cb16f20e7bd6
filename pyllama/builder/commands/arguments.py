"""What the build-time commands have in common: arguments, and how they answer."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..paths import Paths, locate

Subparsers = Any  # argparse has no public name for it
DEFAULT_PIN = "default: the one that `pyllama pins` marks"


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="write JSON to stdout")


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add `--backend`."""
    parser.add_argument(
        "--backend",
        default="cpu",
        metavar="B,…",
        help="backends beside the CPU; auto: what this machine looks like it has "
        "(`pyllama devices --explain` lists all of them)",
    )


def add_series(parser: argparse.ArgumentParser) -> None:
    """Add `--series`."""
    parser.add_argument(
        "--series",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a series of your own on top (also PYLLAMA_SERIES); may be given more than once",
    )


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add `--pin`, `--series` and the choice of features."""
    parser.add_argument("--pin", help=f"name of the pin ({DEFAULT_PIN})")
    add_series(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--features", metavar="F,…", help="these features and what they require")
    which.add_argument("--all", action="store_true", help="every feature that the pin can have (default)")
    which.add_argument("--none", action="store_true", help="no feature: stock llama.cpp")


def wanted(args: argparse.Namespace) -> str | list[str]:
    """Return the choice of features that the arguments make."""
    if args.none:
        return "none"
    return names(args.features) if args.features is not None else "all"


def names(text: str) -> list[str]:
    """Split a comma-separated list."""
    return [part.strip() for part in text.replace(";", ",").split(",") if part.strip()]


def paths_of(args: argparse.Namespace) -> Paths:
    """Return the folders, with the series that the arguments put on top."""
    return locate(getattr(args, "series", ()))


def print_json(value: object) -> int:
    """Write a value as JSON to stdout and return the exit code for success."""
    json.dump(value, sys.stdout, indent=1, default=str)
    print()
    return 0

"""`build`: fetch, patch, compile and bind."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..progress import Reporter
from .arguments import Subparsers, add_backend, add_choice, add_json, names, paths_of, print_json, wanted


def add_commands(commands: Subparsers) -> None:
    """Add `build`."""
    build = commands.add_parser("build", help="fetch, patch, compile and bind")
    add_choice(build)
    add_backend(build)
    build.add_argument("--tools", default="", metavar="T,…", help="also upstream's programs or libraries")
    build.add_argument("--flavour", default="release", help="release, asan or abi (for abidiff)")
    build.add_argument(
        "--no-chat",
        action="store_true",
        help="without the library of chat templates, which makes compiling take about a third longer",
    )
    build.add_argument("--force", action="store_true", help="make it again although it is in the cache")
    build.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="also copy the build into this folder, with what --tools names and the libraries that it needs",
    )
    add_json(build)
    build.set_defaults(run=_build)


def _build(args: argparse.Namespace) -> int:
    from .. import build
    from ..plan import make_plan

    paths = paths_of(args)
    plan = make_plan(
        paths,
        pin=args.pin,
        wanted=wanted(args),
        backends=names(args.backend),
        flavour=args.flavour,
        chat=not args.no_chat,
    )
    done = build.build(
        paths,
        plan,
        Reporter(quiet=args.json),
        targets=names(args.tools),
        use_cache=not args.force,
        export=args.export,
    )
    if args.json:
        return print_json({**done.info, "folder": str(done.folder), "cached": done.cached})
    print(done.folder)
    return 0

"""The build-time commands: `pins`, `fetch`, `patches`, `build`.

They are part of `pyllama …` and, where nothing is built yet, all of `python -m pyllama.builder`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Error, UsageError
from .paths import locate
from .progress import Reporter

if TYPE_CHECKING:
    from .pins import Lock
    from .stack.features import Feature

Subparsers = Any  # argparse has no public name for it
Command = Callable[[argparse.Namespace], int]


def add_commands(commands: Subparsers) -> None:
    """Add the build-time commands to a parser's subcommands."""
    pins = commands.add_parser("pins", help="list the upstream revisions that can be built")
    _json(pins)
    pins.set_defaults(run=_pins)

    fetch = commands.add_parser("fetch", help="fetch a pin's source and verify it")
    fetch.add_argument("pin", nargs="?", help="name of the pin (default: the newest)")
    fetch.add_argument("--source", choices=("cache", "github", "index", "path", "archive"))
    fetch.add_argument("--path", type=Path, help="a folder with upstream's files, for --source path")
    fetch.add_argument("--archive", type=Path, help="a tar or zip of them, for --source archive")
    _json(fetch)
    fetch.set_defaults(run=_fetch)

    patches = commands.add_parser("patches", help="the stack of features")
    actions = patches.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list the features, and where each one applies")
    _json(listing)
    listing.set_defaults(run=_list)
    status = actions.add_parser("status", help="say whether each feature applies to a pin now")
    _choice(status)
    _json(status)
    status.set_defaults(run=_status)
    apply = actions.add_parser("apply", help="make the patched tree of a pin")
    _choice(apply)
    _json(apply)
    apply.set_defaults(run=_apply)

    export = actions.add_parser("export", help="write the stack as mbox, quilt series, diff or git branch")
    _choice(export)
    export.add_argument("--format", required=True, help="mbox, quilt, diff or branch (a git bundle)")
    export.add_argument("-o", "--output", type=Path, required=True, help="file, or folder for quilt")
    _json(export)
    export.set_defaults(run=_export)

    build = commands.add_parser("build", help="fetch, patch, compile and bind")
    _choice(build)
    build.add_argument("--backend", default="cpu", metavar="B,…", help="backends beside the CPU")
    build.add_argument("--tools", default="", metavar="T,…", help="also upstream's programs or libraries")
    build.add_argument("--flavour", default="release", help="release or asan")
    build.add_argument("--force", action="store_true", help="make it again although it is in the cache")
    build.add_argument("--export", type=Path, metavar="DIR", help="also copy the build into this folder")
    _json(build)
    build.set_defaults(run=_build)


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


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="write JSON to stdout")


def _choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pin", help="name of the pin (default: the newest)")
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


def _pins(args: argparse.Namespace) -> int:
    from . import pins
    from .fetch import pristine

    paths = locate()
    rows = pristine.status(pins.load(paths.pins), paths)
    if args.json:
        return _print_json([asdict(row) for row in rows])
    for row in rows:
        held = ", ".join(
            word for word, there in (("cached", row.in_cache), ("in vendor", row.in_vendor)) if there
        )
        default = " (default)" if row.default else ""
        print(f"{row.name}{default}  {row.date}  {row.commit[:12]}  {held or 'not fetched'}")
        print(f"    {row.why}")
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from . import pins
    from .fetch import pristine

    paths = locate()
    pin = pins.load(paths.pins).pin(args.pin)
    done = pristine.fetch(
        pin,
        paths,
        source=args.source,
        path=args.path,
        archive=args.archive,
        reporter=Reporter(quiet=args.json),
    )
    found = {"pin": pin.name, "commit": pin.commit, "tree": done.tree, "source": done.source}
    if args.json:
        return _print_json({**found, "folder": str(done.folder)})
    print(done.folder)
    return 0


def _list(args: argparse.Namespace) -> int:
    from . import pins
    from .stack import series

    paths = locate()
    lock, stack = pins.load(paths.pins), series.load(paths.patches)
    if args.json:
        return _print_json([_describe(feature, lock) for feature in stack.features])
    for feature in stack.features:
        print(f"{feature.name}: {feature.title} [{feature.upstream_status}]")
        for pin in lock.pins:
            print(f"    {pin.name}  {feature.at(pin.name).kind}")
    return 0


def _describe(feature: Feature, lock: Lock) -> dict[str, object]:
    return {
        "name": feature.name,
        "title": feature.title,
        "upstream_status": feature.upstream_status,
        "origin": list(feature.origin),
        "requires": list(feature.requires),
        "pins": {pin.name: feature.at(pin.name).kind for pin in lock.pins},
    }


def _status(args: argparse.Namespace) -> int:
    from . import pins
    from .fetch import pristine
    from .stack import features, series
    from .stack import status as stack_status
    from .tree import TreeStore

    paths = locate()
    pin = pins.load(paths.pins).pin(args.pin)
    stack = series.load(paths.patches)
    selected = features.select(stack, pin.name, wanted(args)) if args.features or args.none else None
    if not pristine.cached(pin, paths):
        pristine.fetch(pin, paths, reporter=Reporter(quiet=args.json))
    rows = stack_status.status(stack, pin.name, pin.tree, TreeStore(paths.objects), selected)
    if args.json:
        _print_json([asdict(row) for row in rows])
    else:
        for row in rows:
            print(f"{row.name:<18} {row.outcome:<15} +{row.added} -{row.removed}  {', '.join(row.touched)}")
            if row.detail:
                print(f"    {row.detail}")
    return 0 if all(row.good for row in rows) else 1


def _apply(args: argparse.Namespace) -> int:
    from . import pins
    from .fetch import pristine
    from .stack import features, series
    from .stack.apply import apply
    from .tree import TreeStore

    paths = locate()
    reporter = Reporter(quiet=args.json)
    pin = pins.load(paths.pins).pin(args.pin)
    selected = features.select(series.load(paths.patches), pin.name, wanted(args))
    if not pristine.cached(pin, paths):
        pristine.fetch(pin, paths, reporter=reporter)
    done = apply(pin.name, pin.tree, selected, paths, TreeStore(paths.objects), reporter)
    if args.json:
        return _print_json({**asdict(done), "folder": str(done.folder)})
    print(done.folder)
    return 0


def _export(args: argparse.Namespace) -> int:
    from . import pins
    from .fetch import pristine
    from .stack import features, series
    from .stack.export import export
    from .tree import TreeStore

    paths = locate()
    pin = pins.load(paths.pins).pin(args.pin)
    selected = features.select(series.load(paths.patches), pin.name, wanted(args))
    if not pristine.cached(pin, paths):
        pristine.fetch(pin, paths, reporter=Reporter(quiet=args.json))
    output = args.output.absolute()
    tree = export(pin.name, pin.tree, selected, TreeStore(paths.objects), args.format, output)
    if args.json:
        found = {"pin": pin.name, "base": pin.tree, "tree": tree, "features": [f.name for f in selected]}
        return _print_json({**found, "format": args.format, "output": str(output)})
    print(f"{output} (applied to pin {pin.name}, it gives tree {tree})")
    return 0


def _build(args: argparse.Namespace) -> int:
    from . import build
    from .plan import make_plan

    paths = locate()
    plan = make_plan(
        paths, pin=args.pin, wanted=wanted(args), backends=names(args.backend), flavour=args.flavour
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
        return _print_json({**done.info, "folder": str(done.folder), "cached": done.cached})
    print(done.folder)
    return 0


def _print_json(value: object) -> int:
    json.dump(value, sys.stdout, indent=1, default=str)
    print()
    return 0

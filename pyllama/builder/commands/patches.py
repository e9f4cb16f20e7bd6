"""`patches`: the stack of features."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..progress import Reporter
from . import editing, linting, rebasing
from .arguments import Subparsers, add_choice, add_json, add_series, paths_of, print_json, wanted

if TYPE_CHECKING:
    from ..pins import Lock
    from ..stack.features import Feature


def add_commands(commands: Subparsers) -> None:
    """Add `patches` and its actions."""
    patches = commands.add_parser("patches", help="the stack of features")
    actions = patches.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list the features, and where each one applies")
    add_series(listing)
    add_json(listing)
    listing.set_defaults(run=_list)
    status = actions.add_parser("status", help="say whether each feature applies to a pin now")
    add_choice(status)
    add_json(status)
    status.set_defaults(run=_status)
    apply = actions.add_parser("apply", help="make the patched tree of a pin")
    add_choice(apply)
    add_json(apply)
    apply.set_defaults(run=_apply)

    export = actions.add_parser("export", help="write the stack as mbox, quilt series, diff or git branch")
    add_choice(export)
    export.add_argument("--format", required=True, help="mbox, quilt, diff or branch (a git bundle)")
    export.add_argument("-o", "--output", type=Path, required=True, help="file, or folder for quilt")
    export.add_argument(
        "--preimages",
        type=Path,
        metavar="FILE",
        help="also write the changed files as they were, for `git unpack-objects`: `git am -3` needs them",
    )
    add_json(export)
    export.set_defaults(run=_export)

    for module in (linting, editing, rebasing):
        module.add_actions(actions)


def _list(args: argparse.Namespace) -> int:
    from .. import project

    opened = project.load(paths_of(args))
    lock, stack = opened.lock, opened.stack
    if args.json:
        return print_json([_describe(feature, lock) for feature in stack.features])
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
    from .. import project
    from ..stack import status as stack_status

    opened = project.load(paths_of(args))
    pin = opened.pin(args.pin)
    selected = opened.select(pin, wanted(args)) if args.features or args.none else None
    store = opened.store_with(pin, Reporter(quiet=args.json))
    rows = stack_status.status(opened.stack, pin.name, pin.tree, store, selected)
    if args.json:
        print_json([asdict(row) for row in rows])
    else:
        for row in rows:
            print(f"{row.name:<18} {row.outcome:<15} +{row.added} -{row.removed}  {', '.join(row.touched)}")
            if row.detail:
                print(f"    {row.detail}")
    return 0 if all(row.good for row in rows) else 1


def _apply(args: argparse.Namespace) -> int:
    from .. import project
    from ..stack.apply import apply

    reporter = Reporter(quiet=args.json)
    opened = project.load(paths_of(args))
    pin = opened.pin(args.pin)
    selected = opened.select(pin, wanted(args))
    store = opened.store_with(pin, reporter)
    done = apply(pin.name, pin.tree, selected, opened.paths, store, reporter)
    if args.json:
        return print_json({**asdict(done), "folder": str(done.folder)})
    print(done.folder)
    return 0


def _export(args: argparse.Namespace) -> int:
    from .. import project
    from ..stack.export import export, write_whole
    from ..stack.preimages import pack

    opened = project.load(paths_of(args))
    pin = opened.pin(args.pin)
    selected = opened.select(pin, wanted(args))
    store = opened.store_with(pin, Reporter(quiet=args.json))
    output = args.output.absolute()
    tree = export(pin.name, pin.tree, selected, store, args.format, output)
    if args.preimages is not None:
        write_whole(args.preimages.absolute(), pack(pin.name, pin.tree, selected, store))
    if args.json:
        found = {"pin": pin.name, "base": pin.tree, "tree": tree, "features": [f.name for f in selected]}
        return print_json({**found, "format": args.format, "output": str(output)})
    print(f"{output} (applied to pin {pin.name}, it gives tree {tree})")
    return 0

"""`patches edit`, `refresh` and `new`: work on a feature."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from ...errors import UsageError
from ..progress import Reporter
from .arguments import DEFAULT_PIN, Subparsers, add_json, add_series, names, paths_of, print_json

if TYPE_CHECKING:
    from ..project import Project


def add_actions(actions: Subparsers) -> None:
    """Add them to the actions of `patches`."""
    edit = actions.add_parser("edit", help="open a feature as a git work tree")
    edit.add_argument("feature", nargs="?", help="name of the feature")
    edit.add_argument("--pin", help=f"name of the pin ({DEFAULT_PIN})")
    edit.add_argument("--from", dest="source", metavar="PIN", help="carry over the hooks of that pin")
    how = edit.add_mutually_exclusive_group()
    how.add_argument(
        "--continue", dest="how", action="store_const", const="continue", help="go on: it is resolved"
    )
    how.add_argument("--skip", dest="how", action="store_const", const="skip", help="go on without that hook")
    how.add_argument(
        "--abort", dest="how", action="store_const", const="abort", help="forget the session and its tree"
    )
    how.add_argument(
        "--where", dest="how", action="store_const", const="where", help="print the folder of the tree"
    )
    add_series(edit)
    add_json(edit)
    edit.set_defaults(run=_edit)

    refresh = actions.add_parser("refresh", help="write the opened work tree back into the patches")
    refresh.add_argument("feature", nargs="?", help="name of the feature")
    refresh.add_argument("--pin", help="name of the pin, when the feature is open at several")
    refresh.add_argument("--close", action="store_true", help="remove the work tree afterwards")
    add_series(refresh)
    add_json(refresh)
    refresh.set_defaults(run=_refresh)

    new = actions.add_parser("new", help="start a feature")
    new.add_argument("name", help="its name: small letters, digits and dashes")
    new.add_argument("--title", default="", help="what it does, in one line")
    new.add_argument("--requires", default="", metavar="F,…", help="features that it builds on")
    new.add_argument("--pin", help=f"the pin that it is for ({DEFAULT_PIN})")
    add_series(new)
    add_json(new)
    new.set_defaults(run=_new)


def _edit(args: argparse.Namespace) -> int:
    from ..edit import opening, session

    paths = paths_of(args)
    reporter = Reporter(quiet=True)
    if args.how in ("abort", "where"):
        folder = session.find(paths, args.feature, args.pin)
        if args.how == "where":
            print(folder / "tree")
        else:
            session.close(folder)
            print(f"{folder.name} is closed", file=sys.stderr)
        return 0
    opened = _project(args)
    if args.how is not None:
        folder = session.find(paths, args.feature, args.pin)
        made = opening.proceed(opened, folder, args.how == "skip", reporter)
    elif args.feature is None:
        raise UsageError(
            f"name a feature: {', '.join(opened.stack.names) or 'there is none; begin with patches new'}"
        )
    else:
        made = opening.begin(opened, args.feature, args.pin, args.source, reporter)
    if args.json:
        state = json.loads((made.folder / "state.json").read_text(encoding="utf-8"))
        return print_json({**state, "tree": str(made.tree)})
    print(made.tree)
    print(f"edit there, then run: pyllama patches refresh {made.feature}", file=sys.stderr)
    return 0


def _refresh(args: argparse.Namespace) -> int:
    from ..edit import refresh, session

    opened = _project(args)
    folder = session.find(opened.paths, args.feature, args.pin)
    done = refresh.refresh(opened, folder, Reporter(quiet=args.json))
    if args.close:
        session.close(folder)
    if args.json:
        return print_json(asdict(done))
    for name in done.written:
        print(f"{done.feature}/{name}")
    for name in done.removed:
        print(f"{done.feature}/{name} (removed)")
    if not done.written and not done.removed:
        print(f"{done.feature} is as it was", file=sys.stderr)
        return 0
    if done.other_pins:
        print(f"its files also serve {', '.join(done.other_pins)}", file=sys.stderr)
    print("the tree ids of what holds it changed: run pyllama patches lock", file=sys.stderr)
    return 0


def _new(args: argparse.Namespace) -> int:
    from .. import project
    from ..edit import scaffold

    paths = paths_of(args)
    folder = paths.on_top[-1] if paths.on_top else paths.patches
    scaffold.begin(folder)
    _recover(args)
    held = project.lock(paths)
    listed = scaffold.listed((paths.patches, *paths.on_top))
    title = args.title or args.name.replace("-", " ").capitalize()
    place = scaffold.new(folder, args.name, listed, title, names(args.requires), held.pin(args.pin).name)
    if args.json:
        return print_json({"feature": args.name, "folder": str(place)})
    print(place)
    print(f"next: pyllama patches edit {args.name}", file=sys.stderr)
    return 0


def _project(args: argparse.Namespace) -> Project:
    """Read the project, after finishing what a killed refresh has left."""
    from .. import project

    _recover(args)
    return project.load(paths_of(args))


def _recover(args: argparse.Namespace) -> None:
    from ..edit import replacing

    paths = paths_of(args)
    for folder in (paths.patches, *paths.on_top):
        replacing.recover_all(folder)

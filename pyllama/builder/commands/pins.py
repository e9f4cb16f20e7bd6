"""`pins` and `fetch`: which upstream revisions there are, adding one, and bringing one here."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import date
from pathlib import Path

from ..progress import Reporter
from .arguments import DEFAULT_PIN, Subparsers, add_json, add_series, paths_of, print_json


def add_commands(commands: Subparsers) -> None:
    """Add both."""
    pins = commands.add_parser("pins", help="list the upstream revisions that can be built")
    add_series(pins)
    add_json(pins)
    pins.set_defaults(run=_pins)
    add = pins.add_subparsers(metavar="add", title="actions").add_parser(
        "add", help="lock another revision, from its files"
    )
    add.add_argument("name", help="name of the new pin")
    add.add_argument("--path", type=Path, help="a folder with upstream's files")
    add.add_argument("--archive", type=Path, help="a tar or zip of them")
    add.add_argument("--commit", help="upstream's commit (default: what the folder's git says)")
    add.add_argument("--date", default=str(date.today()), help="its date (default: today)")
    add.add_argument("--why", default="added by hand", help="why it is carried")
    add.add_argument(
        "--like", metavar="PIN", help="use that pin's hooks where a feature does not name this one"
    )
    add.add_argument("--series", type=Path, metavar="DIR", help="add it to the pins.toml of this series")
    add_json(add)
    add.set_defaults(run=_add)

    fetch = commands.add_parser("fetch", help="fetch a pin's source and verify it")
    fetch.add_argument("pin", nargs="?", help=f"name of the pin ({DEFAULT_PIN})")
    fetch.add_argument("--source", choices=("cache", "github", "index", "path", "archive"))
    fetch.add_argument("--path", type=Path, help="a folder with upstream's files, for --source path")
    fetch.add_argument("--archive", type=Path, help="a tar or zip of them, for --source archive")
    add_series(fetch)
    add_json(fetch)
    fetch.set_defaults(run=_fetch)


def _pins(args: argparse.Namespace) -> int:
    from .. import project
    from ..fetch import pristine

    paths = paths_of(args)
    rows = pristine.status(project.lock(paths), paths)
    if args.json:
        return print_json([asdict(row) for row in rows])
    for row in rows:
        held = ", ".join(
            word for word, there in (("cached", row.in_cache), ("in vendor", row.in_vendor)) if there
        )
        default = " (default)" if row.default else ""
        print(f"{row.name}{default}  {row.date}  {row.commit[:12]}  {held or 'not fetched'}")
        print(f"    {row.why}")
    return 0


def _add(args: argparse.Namespace) -> int:
    from .. import project
    from ..fetch import sources
    from ..fetch.register import NewPin, register
    from ..paths import locate

    paths = locate([args.series] if args.series else [])
    asked = sources.request(None, args.path, args.archive)
    file = args.series.absolute() / "pins.toml" if args.series else paths.pins
    new = NewPin(args.name, args.date, args.why, args.commit, args.like)
    pin = register(new, asked, project.lock(paths), file, paths, Reporter(quiet=args.json))
    if args.json:
        return print_json(asdict(pin))
    print(f"{pin.name}  {pin.date}  {pin.commit[:12]}  tree {pin.tree}")
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from .. import project
    from ..fetch import pristine

    paths = paths_of(args)
    pin = project.lock(paths).pin(args.pin)
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
        return print_json({**found, "folder": str(done.folder)})
    print(done.folder)
    return 0

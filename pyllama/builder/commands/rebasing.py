"""`patches rebase`: how the stack would fare on another upstream.

Its exit code says how bad it is: 0 for nothing to do, 3 for a merge to look at, 4 for hooks to refresh,
5 for something that does not go on (`stack.outcomes` has the words).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ...errors import UsageError
from ..progress import Reporter
from .arguments import DEFAULT_PIN, Subparsers, add_json, add_series, names, paths_of, print_json

if TYPE_CHECKING:
    from ..rebase.report import Report

_EXIT_CODES = """exit code: 0 when every feature is clean, offset, upstreamed or not-applicable;
3 when one is merged (look at it); 4 when one is partly-upstreamed or target-moved (refresh its hooks);
5 when one is in conflict, target-deleted or blocked; 1 for an error, 2 for wrong usage. With --bisect it
is that of the newest revision."""


def add_actions(actions: Subparsers) -> None:
    """Add it to the actions of `patches`."""
    rebase = actions.add_parser(
        "rebase",
        help="say how the stack of a pin fares on another upstream; nothing is changed",
        description="Say how the stack made for a pin would fare on other revisions of upstream. "
        "A revision is the name of a pin, a folder or an archive. Nothing is changed.",
        epilog=_EXIT_CODES,
    )
    which = rebase.add_mutually_exclusive_group()
    which.add_argument(
        "--onto", action="append", metavar="REV", help="the revision; may be given more than once"
    )
    which.add_argument(
        "--bisect", nargs="+", metavar="REV", help="find the newest of these, oldest first, that still works"
    )
    rebase.add_argument("--pin", help=f"the pin that the stack was made for ({DEFAULT_PIN})")
    rebase.add_argument("--features", metavar="F,…", help="only these features and what they require")
    add_series(rebase)
    form = rebase.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument("--markdown", action="store_true", help="write Markdown to stdout")
    rebase.add_argument("--range-diff", action="store_true", help="also print git's range-diff of the stack")
    rebase.set_defaults(run=_rebase)


def _rebase(args: argparse.Namespace) -> int:
    from .. import project
    from ..rebase import bisect, render, report
    from ..rebase.rebase import rebase
    from ..rebase.revisions import bring

    wanted: list[str] = args.onto or args.bisect or []
    if not wanted:
        raise UsageError("say with --onto what to rebase onto: a pin, a folder or an archive")
    if len(set(wanted)) < len(wanted):
        raise UsageError("a revision is given twice: give each one once")
    reporter = Reporter(quiet=args.json or args.markdown)
    opened = project.load(paths_of(args))
    pin = opened.pin(args.pin)
    stack = opened.stack
    features = stack.features if args.features is None else opened.select(pin, names(args.features))
    with opened.store_with(pin, reporter).overlay() as store:

        def one(name: str) -> Report:
            return rebase(features, pin, bring(name, opened, store, reporter), store)

        if args.bisect:
            found = bisect.search(wanted, one)
            if args.json:
                print_json(bisect.document(found))
            else:
                print(render.bisect_markdown(found) if args.markdown else render.bisect_text(found), end="")
            return found.tried[0].exit_code
        reports = [one(name) for name in wanted]
    if args.json:
        print_json(report.document(reports))
    elif args.markdown:
        print(render.as_markdown(reports), end="")
    else:
        print("\n".join(render.as_text(row, args.range_diff) for row in reports), end="")
    return max(row.exit_code for row in reports)

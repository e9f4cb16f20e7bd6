"""`verify`: is a finished build what its features promise, and a drop-in for the stock one?"""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import BuildError
from ..progress import Reporter
from .arguments import Subparsers, add_backend, add_choice, add_json, names, paths_of, print_json, wanted

if TYPE_CHECKING:
    from ..verify.checks import Check


def add_commands(commands: Subparsers) -> None:
    """Add `verify`."""
    verify = commands.add_parser("verify", help="check contracts, libraries and ABI of a build")
    add_choice(verify)
    add_backend(verify)
    verify.add_argument("--build", type=Path, metavar="DIR", help="check this finished build instead")
    verify.add_argument(
        "--abi",
        action="store_true",
        help="compare with the stock build of the pin by abidiff; builds both anew, with debug information",
    )
    add_json(verify)
    verify.set_defaults(run=_verify)


def _verify(args: argparse.Namespace) -> int:
    checks = _abi(args) if args.abi else _contracts(args)
    good = all(check.good for check in checks)
    if args.json:
        print_json({"good": good, "checks": [asdict(check) for check in checks]})
        return 0 if good else 1
    for check in checks:
        print(f"{check.name:<18} {'ok' if check.good else 'FAILED':<7} {check.about}")
        for fault in check.faults:
            print(textwrap.indent(fault, "    "))
    return 0 if good else 1


def _contracts(args: argparse.Namespace) -> tuple[Check, ...]:
    from .. import finished, project
    from ..build import folder_of
    from ..plan import make_plan
    from ..stack.apply import apply
    from ..stack.key import key
    from ..verify import checks

    paths = paths_of(args)
    reporter = Reporter(quiet=args.json)
    folder = args.build
    if folder is None:
        plan = make_plan(paths, pin=args.pin, wanted=wanted(args), backends=names(args.backend))
        folder = folder_of(paths, plan)
        if not finished.is_complete(folder):
            raise BuildError(f"there is no build of pin {plan.pin.name} like that: run `pyllama build` first")
    elif not finished.is_complete(folder):
        raise BuildError(f"{folder} is not a finished build, or files of it are missing: build it again")
    info = finished.read(folder)
    opened = project.load(paths)
    pin = opened.pin(info["pin"])
    features = opened.select(pin, info["features"])
    if key(pin.tree, features, pin.name) != info["key"]:
        raise BuildError(f"{folder} was made from other patches than these: build it again")
    tree = apply(pin.name, pin.tree, features, paths, opened.store_with(pin, reporter), reporter)
    machine = (paths.build, paths.vendor, paths.cache)
    return checks.of_build(features, pin.name, tree.folder, folder.absolute(), machine)


def _abi(args: argparse.Namespace) -> tuple[Check, ...]:
    from ..build import build
    from ..plan import make_plan
    from ..verify import abi, checks

    abi.program()  # missing? Then say so before minutes of compiling.
    paths = paths_of(args)
    made = [
        build(
            paths,
            make_plan(paths, pin=args.pin, wanted=choice, backends=names(args.backend), flavour="abi"),
            Reporter(quiet=args.json),
        )
        for choice in ("none", wanted(args))
    ]
    return checks.of_abi(made[0].folder, made[1].folder)

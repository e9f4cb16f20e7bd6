"""`patches lint` and `patches lock`: is the stack as it should be?"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from ...errors import UsageError
from ..progress import Reporter
from .arguments import Subparsers, add_json, add_series, paths_of, print_json


def add_actions(actions: Subparsers) -> None:
    """Add them to the actions of `patches`."""
    lint = actions.add_parser("lint", help="check that the series is whole, minimal and reproducible")
    lint.add_argument("--pin", help="compose at this pin only (default: every pin)")
    add_series(lint)
    add_json(lint)
    lint.set_defaults(run=_lint)

    lock = actions.add_parser("lock", help="write the tree ids that the features give: trees.toml")
    lock.add_argument(
        "--check", action="store_true", help="write nothing; fail when the lock is not up to date"
    )
    add_series(lock)
    lock.set_defaults(run=_lock)


def _lint(args: argparse.Namespace) -> int:
    from .. import project
    from ..lint import run
    from ..paths import checkout
    from ..stack.features import Stack
    from ..tree import TreeStore

    paths = paths_of(args)
    held = project.lock(paths)
    reporter = Reporter(quiet=args.json)
    findings, features = run.static(paths, TreeStore(paths.objects), checkout())
    named = {name for feature in features for name in feature.pins}
    pins = [pin for pin in held.pins if pin.name in named or pin.like in named]
    if args.pin is not None:
        pins = [held.pin(args.pin)]
    opened = project.Project(paths, held, Stack(tuple(features)))
    for pin in pins:
        store = opened.store_with(pin, reporter)
    if pins and not any(finding.level == "error" and finding.rule == "series" for finding in findings):
        findings += run.composed(paths, held, features, pins, store)
    errors = sum(finding.level == "error" for finding in findings)
    if args.json:
        print_json({"good": errors == 0, "findings": [asdict(finding) for finding in findings]})
        return 1 if errors else 0
    for finding in findings:
        print(finding)
    warnings = len(findings) - errors
    at = ", ".join(pin.name for pin in pins) or "no pin"
    print(f"{len(features)} features at {at}: {errors} errors, {warnings} warnings")
    return 1 if errors else 0


def _lock(args: argparse.Namespace) -> int:
    from .. import project
    from ..stack import lock

    opened = project.load(paths_of(args))
    stale = []
    for folder in opened.paths.on_top or (opened.paths.patches,):
        own = [feature.name for feature in opened.stack.features if feature.folder.parent == folder]
        rows = [
            row
            for pin in opened.lock.pins
            for row in lock.compute(opened.stack, pin.name, pin.tree, opened.store_with(pin, Reporter()), own)
        ]
        path, text = folder / lock.NAME, lock.dump(rows)
        held = path.read_text(encoding="utf-8") if path.is_file() else ""
        if held != text:
            stale.append(path)
            if not args.check:
                _write(path, text)
        state = "up to date" if held == text else "not up to date" if args.check else "written"
        print(f"{path}: {len(rows)} trees, {state}")
    return 1 if stale and args.check else 0


def _write(path: Path, text: str) -> None:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with open(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        why = error.strerror
        raise UsageError(f"{path} can't be written ({why}): lock a series of your own, --series") from error

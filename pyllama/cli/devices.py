"""`pyllama devices`: what this machine can compute on."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any


def add_command(commands: Any) -> None:
    """Add `devices`."""
    parser = commands.add_parser("devices", help="list the devices of the loaded backends")
    parser.add_argument("--json", action="store_true", help="write JSON to stdout")
    parser.add_argument(
        "--explain", action="store_true", help="each backend: is it built, does it load, what is missing"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.explain:
        return _explain(args.json)
    from ..device import devices

    found = devices()
    if args.json:
        print(json.dumps([asdict(device) for device in found], indent=1))
        return 0
    for device in found:
        memory = f"{device.memory_free / 2**30:.1f} of {device.memory_total / 2**30:.1f} GiB free"
        print(f"{device.name:<10} {device.kind:<6} {memory:<26} {device.description}")
    return 0


def _explain(as_json: bool) -> int:
    from ..native.installed import build_info
    from .explain import explain

    told = explain(build_info())
    if as_json:
        print(json.dumps([asdict(row) for row in told], indent=1))
        return 0
    for row in told:
        found = f" ({', '.join(row.devices)})" if row.devices else ""
        print(f"{row.backend:<8} {row.state}{found}: {row.title}")
        if row.advice:
            print(f"         {row.advice}")
    return 0

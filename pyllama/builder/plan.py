"""What to build: names resolved, keys computed. Touches no network and no tree."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass

from ..errors import UsageError
from . import compile as compiling
from . import project
from .bindgen.fingerprint import fingerprint as bindings
from .compile import cpu, toolchain
from .compile.backends import Backend, select
from .compile.made_with import made_with
from .paths import Paths
from .pins import Pin
from .stack.features import Feature
from .stack.key import key as stack_key

# Of build.json and of the C side: what the Python layer at run time expects. Both numbers move together.
SCHEMA = 3
FLAVOURS = ("release", "asan", "abi")


@dataclass(frozen=True)
class Plan:
    """What to build: the answer to every question that the key depends on."""

    pin: Pin
    features: tuple[Feature, ...]
    backends: tuple[Backend, ...]
    flavour: str
    chat: bool
    """Whether the library of chat templates is made, which makes compiling take about a third longer."""
    tree_key: str
    key: str


def make_plan(
    paths: Paths,
    *,
    pin: str | None = None,
    wanted: str | list[str] = "all",
    backends: list[str] | None = None,
    flavour: str = "release",
    chat: bool = True,
) -> Plan:
    """Resolve names and compute the keys; touches no network and no tree.

    `chat` adds the library of chat templates; the flavour `abi`, which is compared only, never has it.

    Raises UsageError for a pin, feature, backend or flavour that does not exist.
    """
    if flavour not in FLAVOURS:
        raise UsageError(f"no flavour is called {flavour!r}: choose from {', '.join(FLAVOURS)}")
    opened = project.load(paths)
    chosen = opened.pin(pin)
    selected = opened.select(chosen, wanted)
    rows = select(backends or ["cpu"])
    chat = chat and flavour != "abi"
    compilers = toolchain.find_compilers()
    tree_key = stack_key(chosen.tree, selected, chosen.name)
    parts = {
        "schema": SCHEMA,
        "tree": tree_key,
        "backends": [{**row.decides, "made with": made_with(row, compilers)} for row in rows],
        "flavour": flavour,
        "chat": chat,
        "compiler": compilers.identity,
        "cpu": cpu.machine_features(),
        "compiling": compiling.fingerprint(),
        "bindings": bindings(),
        "flags": [os.environ.get(name, "") for name in ("CFLAGS", "CXXFLAGS", "LDFLAGS")],
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return Plan(chosen, selected, rows, flavour, chat, tree_key, key)

"""What decides the bindings, as a hash: part of a build's key. Imports none of the generator."""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "native" / "csrc"
# The oldest Python whose limited API the module keeps to.
LIMITED_API = "0x030A0000"


def free_threaded() -> bool:
    """Say whether this Python has no global lock; it has no stable ABI yet."""
    return bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def fingerprint() -> str:
    """Return a hash over everything of ours, and of cffi's, that the module is made from."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted([*here.glob("*.py"), *here.glob("*.toml"), *CSRC.iterdir()]):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    versions = [_cffi(), LIMITED_API, sysconfig.get_platform()]
    versions.append(str(sys.implementation.cache_tag) if free_threaded() else "abi3")
    digest.update(" ".join(versions).encode())
    return digest.hexdigest()


def _cffi() -> str:
    try:
        return metadata.version("cffi")
    except metadata.PackageNotFoundError:
        return "none"  # to be refused when it is needed

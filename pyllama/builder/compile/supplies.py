"""Headers that the system has too old: a later release's package, unpacked in the cache, never installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tomlkit

from ...errors import BuildError, FetchError
from ..fetch.download import download
from ..fetch.net import new_session
from ..locks import locked
from ..paths import Paths
from ..progress import Reporter

_SITES = ("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages")


@dataclass(frozen=True)
class Supply:
    """A row of `supplies.toml`."""

    name: str
    title: str
    path: str
    sha256: str
    folder: str
    setting: str
    license: str
    why: str


@cache
def table() -> dict[str, Supply]:
    """Return what can be supplied, by name."""
    text = (Path(__file__).parent / "supplies.toml").read_text(encoding="utf-8")
    return {name: Supply(name=name, **row) for name, row in tomlkit.parse(text).unwrap().items()}


def available() -> bool:
    """Say whether this machine can take packages of Debian: it has the tools and names a mirror."""
    return bool(shutil.which("dpkg-deb") and mirrors())


@cache
def mirrors() -> tuple[str, ...]:
    """Return the Debian mirrors that this machine's apt uses, in its order."""
    if not shutil.which(_SITES[0]):
        return ()
    done = subprocess.run(_SITES, capture_output=True, text=True, check=False)
    sites = (line.strip().rstrip("/") for line in done.stdout.splitlines())
    # A mirror may be called by any protocol that apt knows; we speak the web's.
    found = (site for site in sites if site.endswith("/debian") and site.startswith("http"))
    return tuple(dict.fromkeys(found))


def provide(supply: Supply, paths: Paths, reporter: Reporter) -> Path:
    """Return the folder with the headers, fetched and unpacked at the first time.

    Raises FetchError when no mirror has the package, VerificationError when it is another one than
    the locked, BuildError when it cannot be unpacked.
    """
    place = paths.cache / "supplies" / f"{supply.name}-{supply.sha256[:16]}"
    with locked(paths, f"supply-{place.name}", reporter, FetchError):
        if not place.is_dir():
            place.parent.mkdir(parents=True, exist_ok=True)
            with reporter.stage("fetch") as stage:
                stage.note = supply.title
                with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as scratch:
                    package = Path(scratch) / "package.deb"
                    _download(supply, package)
                    unpacked = Path(scratch) / "unpacked"
                    _unpack(package, unpacked)
                    if not (unpacked / supply.folder).is_dir():
                        raise BuildError(f"{supply.title}: the package has no {supply.folder}")
                    unpacked.rename(place)
    return place / supply.folder


def _download(supply: Supply, package: Path) -> None:
    reasons = []
    with new_session(retries=2) as session:
        for site in mirrors():
            try:
                download(f"{site}/{supply.path}", package, sha256=supply.sha256, session=session)
                return
            except FetchError as error:
                reasons.append(str(error))
    reason = "; ".join(reasons) or "apt names no mirror of Debian"
    raise FetchError(f"{supply.title} cannot be fetched ({reason}): install newer headers yourself")


def _unpack(package: Path, folder: Path) -> None:
    command = ["dpkg-deb", "-x", str(package), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{package.name} cannot be unpacked: {done.stderr.strip() or 'dpkg-deb failed'}")

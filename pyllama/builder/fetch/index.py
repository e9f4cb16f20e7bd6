"""The user's package index: its settings as pip and uv know them, and looking a locked file up in it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pypi_simple
import requests

from ...errors import FetchError, VerificationError
from . import net

_PIP_SECONDS = 20
_PIP_SECTIONS = ("global", "install", ":env:")
_TIMEOUT = (net.CONNECT_SECONDS, 15.0)


@dataclass(frozen=True)
class IndexSettings:
    """Where to look, in this order, and what to trust; `skipped` are indexes that HTTP cannot reach."""

    endpoints: tuple[str, ...]
    ca_file: str | None = None
    skipped: tuple[str, ...] = ()

    def session(self) -> requests.Session:
        """Return a session that trusts the user's CA file."""
        return net.new_session(ca_file=self.ca_file, retries=2)


@dataclass(frozen=True)
class IndexFile:
    """One file on an index; `url` may carry the index's credentials, so it is kept out of the repr."""

    filename: str
    sha256: str
    size: int | None
    url: str

    def __repr__(self) -> str:
        return f"IndexFile({self.filename!r} at {net.host_of(self.url)})"


def settings(
    environ: Mapping[str, str] | None = None,
    pip_config: Callable[[], Mapping[str, str]] | None = None,
) -> IndexSettings:
    """Return the index settings that hold for this user.

    The first of these that says anything decides: `PYLLAMA_INDEX_URL`, `PIP_*`, `UV_*`, pip's
    configuration files, and for the endpoint at last the default of pypi-simple.
    """
    env = os.environ if environ is None else environ
    files: Mapping[str, str] | None = None

    def choose(variables: tuple[str, ...], option: str) -> str:
        nonlocal files
        for variable in variables:
            value = env.get(variable, "").strip()
            if value:
                return value
        if files is None:
            files = (pip_config or read_pip_config)()
        return files.get(option, "").strip()

    endpoint = choose(("PYLLAMA_INDEX_URL", "PIP_INDEX_URL", "UV_INDEX_URL"), "index-url")
    extra = choose(("PIP_EXTRA_INDEX_URL", "UV_EXTRA_INDEX_URL"), "extra-index-url")
    ca_file = choose(("PIP_CERT",), "cert")
    urls = [endpoint or pypi_simple.PYPI_SIMPLE_ENDPOINT, *extra.split()]
    usable = [url for url in urls if url.lower().startswith(("http://", "https://"))]
    return IndexSettings(
        endpoints=tuple(dict.fromkeys(usable)),
        ca_file=os.path.expanduser(ca_file) if ca_file else None,
        skipped=tuple(url for url in urls if url not in usable),
    )


def read_pip_config() -> Mapping[str, str]:
    """Return what pip's configuration says, or nothing where there is no pip or it does not answer."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PIP_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_pip_config(done.stdout.decode("utf-8", "replace")) if done.returncode == 0 else {}


def parse_pip_config(listing: str) -> Mapping[str, str]:
    """Read `pip config list`: a later section of global, install and :env: wins over an earlier one."""
    found: dict[str, dict[str, str]] = {section: {} for section in _PIP_SECTIONS}
    for line in listing.splitlines():
        key, equals, literal = line.partition("=")
        section, dot, option = key.strip().rpartition(".")
        if not equals or not dot or section not in found:
            continue
        try:
            value = ast.literal_eval(literal.strip())
        except (ValueError, SyntaxError):
            continue
        if isinstance(value, str):
            found[section][option.replace("_", "-")] = value
    return {option: value for section in _PIP_SECTIONS for option, value in found[section].items()}


def find(
    project: str,
    *,
    sha256: str,
    filename: str | None = None,
    version: str | None = None,
    using: IndexSettings | None = None,
) -> IndexFile:
    """Look a file up: the one called `filename`, or else the sdist of `version`.

    An index that lists it with another sha256 than the locked one is passed over.
    Raises VerificationError when that is all there is, FetchError when no index has the file.
    """
    chosen = settings() if using is None else using
    wanted = filename or f"the sdist of {project} {version}"
    if not chosen.endpoints:
        raise FetchError(
            f"the index {net.redact(' '.join(chosen.skipped))} is not served over HTTP: "
            "set PYLLAMA_INDEX_URL to one that is"
        )
    reasons: list[str] = []
    wrong: list[str] = []
    with chosen.session() as http:
        for endpoint in chosen.endpoints:
            try:
                packages = _packages(http, endpoint, project)
            except FetchError as error:
                reasons.append(str(error))
                continue
            matching = [p for p in packages if _matches(p, project, filename, version)]
            for package in matching:
                listed = package.digests.get("sha256", sha256).lower()
                if listed == sha256:
                    url = net.with_credentials(package.url, endpoint)
                    return IndexFile(package.filename, sha256, package.size, url)
                wrong.append(f"found {listed} on {net.host_of(endpoint)}")
            if not matching:
                reasons.append(f"{net.host_of(endpoint)} does not list it")
    if wrong:
        raise VerificationError(f"{wanted}: expected sha256 {sha256}, {', '.join(wrong)}")
    raise FetchError(f"{wanted} was not found: {', '.join(reasons)}")


def _packages(
    session: requests.Session, endpoint: str, project: str
) -> list[pypi_simple.DistributionPackage]:
    client = pypi_simple.PyPISimple(endpoint, session=session)
    host = net.host_of(endpoint)
    try:
        return client.get_project_page(project, timeout=_TIMEOUT).packages
    except pypi_simple.NoSuchProjectError:
        raise FetchError(f"{host} has no project {project}") from None
    except (pypi_simple.UnsupportedContentTypeError, pypi_simple.UnsupportedRepoVersionError):
        raise FetchError(f"{host} does not answer like a package index") from None
    except (OSError, ValueError) as error:
        raise FetchError(net.explain(error, endpoint)) from None


def _matches(
    package: pypi_simple.DistributionPackage, project: str, filename: str | None, version: str | None
) -> bool:
    if filename is not None:
        return package.filename == filename
    if package.package_type != "sdist" or package.version != version or package.project is None:
        return False
    return _normal(package.project) == _normal(project)


def _normal(project: str) -> str:
    return project.lower().replace("_", "-").replace(".", "-")

"""Downloads that survive a bad line: resumed, retried, limited, checked, and renamed into place."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import requests
import urllib3

from ...errors import FetchError, VerificationError
from ..progress import Stage
from . import net

MAX_BYTES = 1 << 30
_CHUNK = 1 << 18
# An attempt that came this much further starts the count of failures anew.
_PROGRESS_BYTES = 1 << 20


@dataclass(frozen=True)
class Retries:
    """How often to try again, and how long to wait before: `delay`, then twice that, and so on."""

    attempts: int = 4
    delay: float = 0.5


@dataclass(frozen=True)
class Plan:
    """What an answer means: write from `start` on until `total` bytes are there; maybe all are."""

    start: int
    total: int | None
    complete: bool = False


class _Transient(Exception):
    """This attempt failed, another may not; with `discard`, what is there is of no use."""

    def __init__(self, reason: str, *, discard: bool = False) -> None:
        super().__init__(reason)
        self.discard = discard


@dataclass
class _Transfer:
    """One download under way."""

    url: str
    partial: Path
    session: requests.Session
    max_bytes: int
    stage: Stage | None
    headers: Mapping[str, str]
    locked: bool
    etag: str | None = field(default=None)

    def have(self) -> int:
        return self.partial.stat().st_size if self.partial.is_file() else 0


def download(
    url: str,
    destination: Path,
    *,
    sha256: str | None = None,
    max_bytes: int = MAX_BYTES,
    session: requests.Session | None = None,
    stage: Stage | None = None,
    headers: Mapping[str, str] | None = None,
    retries: Retries | None = None,
) -> Path:
    """Bring `url` to `destination` and return it.

    Bytes go to `destination`.partial, which a later call with the same sha256 resumes, and are
    renamed when complete and right. The caller sees to it that only one does this at a time.
    Raises FetchError when it cannot be had, VerificationError when the sha256 is another one.
    """
    if sha256 is not None and destination.is_file() and file_sha256(destination) == sha256:
        return destination
    partial = destination.with_name(destination.name + ".partial")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        # With no hash to prove it later, what an earlier process left may be another file's start.
        if sha256 is None:
            partial.unlink(missing_ok=True)
        own = session is None
        http = net.new_session() if session is None else session
        try:
            transfer = _Transfer(url, partial, http, max_bytes, stage, headers or {}, sha256 is not None)
            inherited = transfer.have() > 0
            _receive(transfer, retries or Retries())
            found = file_sha256(partial)
            if inherited and sha256 is not None and found != sha256:
                partial.unlink()
                _receive(transfer, retries or Retries())
                found = file_sha256(partial)
        finally:
            if own:
                http.close()
        if sha256 is not None and found != sha256:
            partial.unlink()
            raise VerificationError(
                f"{destination.name} from {net.host_of(url)}: expected sha256 {sha256}, found {found}"
            )
        os.replace(partial, destination)
    except OSError as error:
        raise FetchError(f"{destination} cannot be written ({error.strerror or error})") from error
    return destination


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def plan(status: int, headers: Mapping[str, str], have: int, host: str) -> Plan:
    """Decide what an answer means to someone who has `have` bytes and asked for the rest.

    Raises FetchError for an answer that will not change.
    """
    if status == 200:
        return Plan(0, net.header_int(headers, "Content-Length"))
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", headers.get("Content-Range", "").strip())
        if match is None or int(match[1]) != have:
            raise _Transient(f"{host} sent another part than was asked for", discard=True)
        return Plan(have, int(match[2]) + 1 if match[3] == "*" else int(match[3]))
    if status == 416 and have:
        match = re.fullmatch(r"bytes \*/(\d+)", headers.get("Content-Range", "").strip())
        if match is not None and int(match[1]) == have:
            return Plan(have, have, complete=True)
        raise _Transient(f"{host} has a file of another size", discard=True)
    if status >= 500 or status in (408, 429):
        raise _Transient(f"{host} answered HTTP {status}")
    raise FetchError(f"{host} answered HTTP {status}")


def _receive(transfer: _Transfer, retries: Retries) -> None:
    failures = 0
    furthest = transfer.have()
    while True:
        try:
            _attempt(transfer)
            return
        except _Transient as error:
            have = transfer.have()
            if have >= furthest + _PROGRESS_BYTES:
                failures, furthest = 0, have
            failures += 1
            if error.discard:
                transfer.partial.unlink(missing_ok=True)
            if failures >= retries.attempts:
                if not transfer.locked:
                    transfer.partial.unlink(missing_ok=True)
                raise FetchError(f"{error}, also after {failures} attempts") from None
        if transfer.stage is not None:
            transfer.stage.update(transfer.have(), text=f"attempt {failures + 1}")
        time.sleep(retries.delay * 2 ** (failures - 1))


def _attempt(transfer: _Transfer) -> None:
    have = transfer.have()
    if have and not (transfer.locked or transfer.etag):
        have = 0
    # Compressed on the way, neither the length nor an offset would be that of the file.
    headers = {**transfer.headers, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if transfer.etag:
            headers["If-Range"] = transfer.etag
    try:
        response = transfer.session.get(transfer.url, headers=headers, stream=True, timeout=net.TIMEOUT)
    except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
        reason = net.explain(error, transfer.url)
        invalid = not isinstance(error, (requests.ConnectionError, requests.Timeout))
        if invalid or (net.unreachable(error) and not have):
            raise FetchError(reason) from None
        raise _Transient(reason) from None
    with response:
        todo = plan(response.status_code, response.headers, have, net.host_of(transfer.url))
        etag = response.headers.get("ETag", "")
        transfer.etag = etag if etag.startswith('"') else None
        if not todo.complete:
            _write(transfer, response, todo)


def _write(transfer: _Transfer, response: requests.Response, todo: Plan) -> None:
    host = net.host_of(transfer.url)
    have = todo.start
    _check_size(transfer, todo.total or 0)
    with transfer.partial.open("r+b" if have else "wb") as file:
        file.seek(have)
        file.truncate()
        # Not iter_content: that would unpack a .tar.gz which a server labels as gzip-encoded.
        chunks = response.raw.stream(_CHUNK, decode_content=False)
        while True:
            try:
                chunk = next(chunks, b"")
            except (OSError, urllib3.exceptions.HTTPError) as error:
                raise _Transient(net.explain(error, transfer.url)) from None
            if not chunk:
                break
            have += len(chunk)
            _check_size(transfer, have)
            file.write(chunk)
            if transfer.stage is not None:
                transfer.stage.update(have, todo.total, host)
    if todo.total is not None and have < todo.total:
        raise _Transient(f"{host} sent {have} of {todo.total} bytes")
    if todo.total is not None and have > todo.total:
        raise _Transient(f"{host} sent more than the {todo.total} bytes it announced", discard=True)


def _check_size(transfer: _Transfer, size: int) -> None:
    if size > transfer.max_bytes:
        transfer.partial.unlink(missing_ok=True)
        limit = transfer.max_bytes
        raise FetchError(f"{net.host_of(transfer.url)} sends more than the {limit} bytes that are allowed")

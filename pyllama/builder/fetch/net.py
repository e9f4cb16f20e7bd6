"""HTTP as the fetchers need it: a session with the user's CA file, and failures said in plain words."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
TIMEOUT = (CONNECT_SECONDS, READ_SECONDS)

_NEVER_CONNECTED = (
    requests.exceptions.ConnectTimeout,
    requests.exceptions.SSLError,
    requests.exceptions.ProxyError,
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.ProxyError,
    urllib3.exceptions.SSLError,
)


class _Session(requests.Session):
    """A session whose own CA file wins over the environment's; requests has it the other way round."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        if verify is None and isinstance(self.verify, str):
            verify = self.verify
        return super().merge_environment_settings(url, proxies, stream, verify, cert)


def new_session(*, ca_file: str | None = None, retries: int = 0) -> requests.Session:
    """Return a session. `retries` are for a server's 5xx and broken answers, never for connecting."""
    session = _Session()
    session.headers["User-Agent"] = "pyllama"
    if ca_file:
        session.verify = ca_file
    policy = urllib3.Retry(
        total=retries,
        connect=0,
        redirect=10,
        backoff_factor=0.3,
        status_forcelist=(500, 502, 503, 504),
        raise_on_status=False,
    )
    if retries:
        session.mount("http://", HTTPAdapter(max_retries=policy))
        session.mount("https://", HTTPAdapter(max_retries=policy))
    return session


def unreachable(error: BaseException) -> bool:
    """Tell whether no connection was made at all, so that trying the same host again is futile."""
    return any(isinstance(link, _NEVER_CONNECTED) for link in _chain(error))


def explain(error: BaseException, url: str) -> str:
    """Say in a few words, with no credentials in them, why a request for `url` failed."""
    host = host_of(url)
    links = list(_chain(error))
    for link in links:
        if isinstance(link, requests.HTTPError) and link.response is not None:
            return f"{host} answered HTTP {link.response.status_code}"
        if isinstance(link, (requests.exceptions.SSLError, urllib3.exceptions.SSLError)):
            return f"the TLS connection to {host} failed: check the CA file (PIP_CERT, REQUESTS_CA_BUNDLE)"
    if any(isinstance(link, (urllib3.exceptions.NameResolutionError, socket.gaierror)) for link in links):
        return f"the name {host} cannot be resolved"
    # Before time-outs: to urllib3, a refused connection is one of these too.
    for link in links:
        if isinstance(link, OSError) and link.strerror:
            return f"the connection to {host} failed ({link.strerror})"
    if any(isinstance(link, (requests.Timeout, urllib3.exceptions.TimeoutError)) for link in links):
        return f"{host} did not answer in time"
    if isinstance(error, (requests.ConnectionError, urllib3.exceptions.HTTPError)):
        return f"the connection to {host} broke"
    return redact(str(error)) or type(error).__name__


def host_of(url: str) -> str:
    """Return the host of `url`, with its port when it names one, for messages."""
    return _without_credentials(urlsplit(url).netloc) or redact(url)


def redact(text: str) -> str:
    """Return `text` with the credentials and query of every URL in it taken out."""
    text = re.sub(r"(?<=://)[^/\s]*@", "", text)
    return re.sub(r"(://[^\s?]*)\?\S*", r"\1", text)


def with_credentials(url: str, endpoint: str) -> str:
    """Give `url` the user and password of `endpoint` when both are on the same scheme, host and port."""
    file, index = urlsplit(url), urlsplit(endpoint)
    if "@" in file.netloc or "@" not in index.netloc:
        return url
    if (file.scheme, file.netloc.lower()) != (index.scheme, _without_credentials(index.netloc).lower()):
        return url
    return urlunsplit(file._replace(netloc=index.netloc))


def header_int(headers: Mapping[str, str], name: str) -> int | None:
    """Return a header that holds a number, or None."""
    value = headers.get(name, "").strip()
    return int(value) if value.isascii() and value.isdigit() else None


def _without_credentials(netloc: str) -> str:
    return netloc.rpartition("@")[2]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it wraps: requests and urllib3 nest in three different ways."""
    queue: list[BaseException] = [error]
    seen: set[int] = set()
    while queue:
        link = queue.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        inner = [getattr(link, "reason", None), link.__cause__, link.__context__, *link.args]
        queue += [part for part in inner if isinstance(part, BaseException)]

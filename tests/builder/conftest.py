"""A web server with faults to order, throw-away folders, and an environment with nothing of the user's."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pyllama.builder.paths import Paths


@dataclass
class Page:
    """One file that is served, and how badly."""

    body: bytes
    content_type: str = "application/octet-stream"
    ranges: bool = True
    etag: str | None = None
    cuts: list[int] = field(default_factory=list)
    """The next answers break off after so many bytes of body."""
    statuses: list[int] = field(default_factory=list)
    """The next answers are these errors."""
    chunked: bool = False
    delay: float = 0.0


@dataclass
class Seen:
    """One request that came in."""

    path: str
    headers: dict[str, str]


class Server:
    """A server on the loopback device; `pages` by path, `seen` in order."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.seen: list[Seen] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Clients hang up as they like."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, path: str) -> int:
        return sum(seen.path == path for seen in self.seen)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.seen.append(Seen(handler.path, {k.lower(): v for k, v in handler.headers.items()}))
        page = self.pages.get(handler.path.partition("?")[0])
        if page is None or page.statuses:
            handler.send_response(404 if page is None else page.statuses.pop(0))
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if page.delay:
            threading.Event().wait(page.delay)
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(wanted[1]) if wanted and page.ranges else 0
        condition = handler.headers.get("If-Range")
        if condition is not None and condition != page.etag:
            start = 0
        if start and start >= len(page.body):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(page.body)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body = page.body[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(page.body) - 1}/{len(page.body)}")
        if page.etag:
            handler.send_header("ETag", page.etag)
        handler.send_header("Content-Type", page.content_type)
        cut = page.cuts.pop(0) if page.cuts else None
        if page.chunked:
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            sent = body[:cut]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent))
            if cut is None:
                handler.wfile.write(b"0\r\n\r\n")
        else:
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body[:cut])
        if cut is not None:
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)

    def index(
        self, project: str, *files: tuple[str, bytes], form: str = "json", lie: str | None = None
    ) -> str:
        """Serve `files` on a package index and return its endpoint; `lie` is a sha256 to list instead."""
        rows = []
        for name, content in files:
            self.pages.setdefault(f"/files/{name}", Page(content))
            rows.append((name, lie or hashlib.sha256(content).hexdigest()))
        if form == "json":
            document = {
                "meta": {"api-version": "1.0"},
                "name": project,
                "files": [
                    {"filename": n, "url": f"../../files/{n}", "hashes": {"sha256": h}} for n, h in rows
                ],
            }
            page = Page(json.dumps(document).encode(), "application/vnd.pypi.simple.v1+json")
        else:
            links = "".join(f'<a href="../../files/{n}#sha256={h}">{n}</a>\n' for n, h in rows)
            page = Page(f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), "text/html")
        self.pages[f"/simple/{project}/"] = page
        return f"{self.url}/simple/"


@pytest.fixture
def server() -> Iterator[Server]:
    it = Server()
    yield it
    it.close()


@pytest.fixture
def make_page() -> type[Page]:
    return Page


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(
        pins=tmp_path / "pins.toml",
        patches=tmp_path / "patches",
        vendor=tmp_path / "vendor",
        build=tmp_path / "build",
        cache=tmp_path / "cache",
    )


@pytest.fixture
def refused() -> str:
    """A URL at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def no_user_settings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Clear proxies, indexes and CA files of the environment; call it to set some."""
    for name in list(os.environ):
        if re.search(r"proxy|_INDEX_URL$|_CA_BUNDLE$|^PIP_|^UV_|^PYLLAMA_", name, re.IGNORECASE):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)

    def setter(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return setter

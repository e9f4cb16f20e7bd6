from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyllama.builder.fetch import download as module
from pyllama.builder.fetch.download import Plan, Retries, download
from pyllama.errors import FetchError, VerificationError

BODY = os.urandom(3 << 20)
SHA = hashlib.sha256(BODY).hexdigest()
FAST = Retries(attempts=3, delay=0.01)

pytestmark = pytest.mark.usefixtures("no_user_settings")


class Recorder:
    """Stands in for a stage."""

    def __init__(self) -> None:
        self.updates: list[tuple[float, float | None]] = []

    def update(self, done: float, total: float | None = None, text: str = "") -> None:
        self.updates.append((done, total))


def ranges(server: Any) -> list[str | None]:
    return [seen.headers.get("range") for seen in server.seen]


def get(server: Any, tmp_path: Path, **options: Any) -> Path:
    options.setdefault("retries", FAST)
    return download(f"{server.url}/f", tmp_path / "deep" / "f", **options)


def leftovers(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.rglob("*") if path.is_file())


def test_plain(server: Any, make_page: Any, tmp_path: Path) -> None:
    server.pages["/f"] = make_page(BODY)
    stage = Recorder()
    path = get(server, tmp_path, sha256=SHA, stage=stage, headers={"X-Mine": "1"})
    assert path.read_bytes() == BODY
    assert stage.updates[-1] == (len(BODY), len(BODY))
    assert server.seen[0].headers["x-mine"] == "1"
    assert server.seen[0].headers["accept-encoding"] == "identity"
    assert leftovers(tmp_path) == ["f"]
    get(server, tmp_path, sha256=SHA)
    assert len(server.seen) == 1, "what is there and right is not fetched again"


@pytest.mark.parametrize("chunked", [False, True])
def test_cut_is_resumed(server: Any, make_page: Any, tmp_path: Path, chunked: bool) -> None:
    server.pages["/f"] = make_page(BODY, cuts=[1000, 500_000], chunked=chunked)
    assert get(server, tmp_path, sha256=SHA).read_bytes() == BODY
    assert ranges(server)[0] is None
    offsets = [int(value.removeprefix("bytes=").rstrip("-")) for value in ranges(server)[1:] if value]
    assert len(offsets) == 2
    assert 0 < offsets[0] <= 1000 < offsets[1] <= 501_000


def test_cut_without_range_support_starts_over(server: Any, make_page: Any, tmp_path: Path) -> None:
    server.pages["/f"] = make_page(BODY, cuts=[100_000, 2000], ranges=False)
    assert get(server, tmp_path, sha256=SHA).read_bytes() == BODY
    assert len(server.seen) == 3


def test_unlocked_resumes_only_the_same_file(server: Any, make_page: Any, tmp_path: Path) -> None:
    server.pages["/f"] = make_page(BODY, cuts=[100_000], etag='"v1"')
    assert get(server, tmp_path).read_bytes() == BODY
    assert server.seen[1].headers["if-range"] == '"v1"'
    server.pages["/f"] = make_page(BODY, cuts=[100_000])
    server.seen.clear()
    assert get(server, tmp_path).read_bytes() == BODY
    assert ranges(server) == [None, None]


def test_earlier_partial_is_used(server: Any, make_page: Any, tmp_path: Path) -> None:
    server.pages["/f"] = make_page(BODY)
    partial = tmp_path / "deep" / "f.partial"
    partial.parent.mkdir()
    partial.write_bytes(BODY[:12345])
    assert get(server, tmp_path, sha256=SHA).read_bytes() == BODY
    assert ranges(server) == ["bytes=12345-"]


@pytest.mark.parametrize("left", [b"x" * 1000, BODY, BODY + b"more"])
def test_earlier_partial_that_is_wrong_or_whole(
    server: Any, make_page: Any, tmp_path: Path, left: bytes
) -> None:
    server.pages["/f"] = make_page(BODY)
    partial = tmp_path / "deep" / "f.partial"
    partial.parent.mkdir()
    partial.write_bytes(left)
    assert get(server, tmp_path, sha256=SHA).read_bytes() == BODY
    assert leftovers(tmp_path) == ["f"]


def test_server_errors_are_retried(server: Any, make_page: Any, tmp_path: Path) -> None:
    server.pages["/f"] = make_page(BODY, statuses=[500, 429])
    assert get(server, tmp_path).read_bytes() == BODY
    server.pages["/f"].statuses = [503] * 9
    server.seen.clear()
    with pytest.raises(FetchError, match="answered HTTP 503, also after 3 attempts"):
        get(server, tmp_path)
    assert len(server.seen) == 3


def test_missing_file_is_not_retried(server: Any, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:\d+ answered HTTP 404$"):
        get(server, tmp_path)
    assert len(server.seen) == 1


def test_endless_cuts_end(server: Any, make_page: Any, tmp_path: Path) -> None:
    server.pages["/f"] = make_page(BODY, cuts=[10] * 50, ranges=False)
    with pytest.raises(FetchError, match="also after 3 attempts"):
        get(server, tmp_path)
    assert leftovers(tmp_path) == []


def test_wrong_hash_touches_nothing_good(server: Any, make_page: Any, tmp_path: Path) -> None:
    server.pages["/f"] = make_page(b"other bytes")
    good = tmp_path / "deep" / "f"
    good.parent.mkdir()
    good.write_bytes(b"what was there")
    found = hashlib.sha256(b"other bytes").hexdigest()
    with pytest.raises(VerificationError, match=f"expected sha256 {SHA}, found {found}"):
        get(server, tmp_path, sha256=SHA)
    assert good.read_bytes() == b"what was there"
    assert leftovers(tmp_path) == ["f"]


@pytest.mark.parametrize("chunked", [False, True])
def test_size_limit(server: Any, make_page: Any, tmp_path: Path, chunked: bool) -> None:
    server.pages["/f"] = make_page(BODY, chunked=chunked)
    with pytest.raises(FetchError, match="more than the 1000 bytes"):
        get(server, tmp_path, max_bytes=1000)
    assert leftovers(tmp_path) == []
    assert len(server.seen) == 1


def test_gzip_labelled_body_stays_as_it_is(server: Any, make_page: Any, tmp_path: Path) -> None:
    import gzip

    packed = gzip.compress(b"tar")
    server.pages["/f"] = make_page(packed, content_type="application/gzip\r\nContent-Encoding: gzip")
    assert get(server, tmp_path).read_bytes() == packed


@pytest.mark.parametrize("place", ["refused", "http://no-such-host.invalid"])
def test_unreachable_fails_at_once(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    def no_sleep(_: float) -> None:
        raise AssertionError("there is nothing to wait for")

    monkeypatch.setattr("time.sleep", no_sleep)
    url = request.getfixturevalue(place) if place == "refused" else place
    with pytest.raises(FetchError, match=r"Connection refused|cannot be resolved"):
        download(f"{url}/f", tmp_path / "f")


def test_missing_ca_file_and_bad_url(
    no_user_settings: Callable[..., None], server: Any, tmp_path: Path
) -> None:
    with pytest.raises(FetchError):
        download("nonsense", tmp_path / "f", retries=FAST)
    no_user_settings(REQUESTS_CA_BUNDLE="/nonexistent.pem")
    with pytest.raises(FetchError, match=r"nonexistent\.pem"):
        download("https://127.0.0.1:1/f", tmp_path / "f", retries=FAST)


def test_unwritable_place(server: Any, make_page: Any, tmp_path: Path) -> None:
    server.pages["/f"] = make_page(BODY)
    (tmp_path / "deep").write_text("a file")
    with pytest.raises(FetchError, match="cannot be written"):
        get(server, tmp_path)


def test_plans() -> None:
    assert module.plan(200, {"Content-Length": "7"}, 3, "h") == Plan(0, 7)
    assert module.plan(200, {}, 3, "h") == Plan(0, None)
    assert module.plan(206, {"Content-Range": "bytes 3-6/7"}, 3, "h") == Plan(3, 7)
    assert module.plan(206, {"Content-Range": "bytes 3-6/*"}, 3, "h") == Plan(3, 7)
    assert module.plan(416, {"Content-Range": "bytes */3"}, 3, "h") == Plan(3, 3, complete=True)
    for status, headers in [(206, {"Content-Range": "bytes 0-6/7"}), (206, {}), (416, {})]:
        with pytest.raises(module._Transient) as caught:
            module.plan(status, headers, 3, "h")
        assert caught.value.discard

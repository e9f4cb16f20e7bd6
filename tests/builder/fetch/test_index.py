from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Callable
from typing import Any

import pypi_simple
import pytest

from pyllama.builder.fetch import index, net
from pyllama.errors import FetchError, VerificationError

SDIST = b"an sdist"
SHA = hashlib.sha256(SDIST).hexdigest()
PIP = {"index-url": "http://pip/", "extra-index-url": "http://e1/ http://e2/", "cert": "/pip.pem"}


def resolve(pip: dict[str, str] | None = None, **env: str) -> index.IndexSettings:
    return index.settings(env, lambda: pip or {})


def test_precedence_of_endpoints() -> None:
    env = {"PYLLAMA_INDEX_URL": "http://own/", "PIP_INDEX_URL": "http://p/", "UV_INDEX_URL": "http://u/"}
    assert resolve(PIP, **env).endpoints[0] == "http://own/"
    del env["PYLLAMA_INDEX_URL"]
    assert resolve(PIP, **env).endpoints[0] == "http://p/"
    del env["PIP_INDEX_URL"]
    assert resolve(PIP, **env).endpoints[0] == "http://u/"
    assert resolve(PIP).endpoints == ("http://pip/", "http://e1/", "http://e2/")
    assert resolve().endpoints == (pypi_simple.PYPI_SIMPLE_ENDPOINT,)


def test_extras_and_ca_file() -> None:
    found = resolve(PIP, PIP_EXTRA_INDEX_URL="http://x/  file:///y\nhttp://z/", PIP_CERT="/env.pem")
    assert found.endpoints == ("http://pip/", "http://x/", "http://z/")
    assert found.skipped == ("file:///y",)
    assert found.ca_file == "/env.pem"
    assert resolve(PIP).ca_file == "/pip.pem"
    assert resolve(PIP, UV_EXTRA_INDEX_URL="http://v/").endpoints[1:] == ("http://v/",)


def test_pip_is_asked_only_when_needed() -> None:
    def never() -> dict[str, str]:
        raise AssertionError

    env = {"PIP_INDEX_URL": "http://p/", "PIP_EXTRA_INDEX_URL": "http://x/", "PIP_CERT": "/c"}
    assert index.settings(env, never).endpoints == ("http://p/", "http://x/")


def test_pip_config_listing() -> None:
    listing = """install.index-url='http://install/'
:env:.cert='/env.pem'
global.index-url='http://global/'
global.cert='/global.pem'
global.extra-index-url='\\nhttp://a/\\nhttp://b/'
download.index-url='http://download/'
global.broken=[
nonsense"""
    assert index.parse_pip_config(listing) == {
        "index-url": "http://install/",
        "extra-index-url": "\nhttp://a/\nhttp://b/",
        "cert": "/env.pem",
    }


def test_pip_itself_is_understood(no_user_settings: Callable[..., None], tmp_path: Any) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = http://from-file/\nextra-index-url =\n  http://a/\n  http://b/\n")
    no_user_settings(PIP_CONFIG_FILE=str(file))
    assert index.settings().endpoints == ("http://from-file/", "http://a/", "http://b/")


def test_no_pip_is_tolerated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert index.read_pip_config() == {}


@pytest.mark.usefixtures("no_user_settings")
class TestFind:
    @pytest.mark.parametrize("form", ["json", "html"])
    def test_sdist_and_filename(self, server: Any, form: str) -> None:
        wheel = ("some_thing-1.0-py3-none-any.whl", b"a wheel")
        endpoint = server.index("some-thing", wheel, ("some_thing-1.0.tar.gz", SDIST), form=form)
        using = index.IndexSettings((endpoint,))
        found = index.find("Some_Thing", sha256=SHA, version="1.0", using=using)
        assert (found.filename, found.sha256) == ("some_thing-1.0.tar.gz", SHA)
        assert found.url == f"{server.url}/files/some_thing-1.0.tar.gz"
        sha = hashlib.sha256(wheel[1]).hexdigest()
        assert index.find("some-thing", sha256=sha, filename=wheel[0], using=using).filename == wheel[0]

    def test_extra_index_after_wrong_missing_and_refused(self, server: Any, refused: str) -> None:
        server.index("thing", ("thing-1.0.tar.gz", b"others"))
        endpoint = server.index("thing", ("thing-1.0.tar.gz", SDIST))
        server.pages["/wrong/thing/"] = server.pages.pop("/simple/thing/")
        server.pages["/wrong/thing/"].body = server.pages["/wrong/thing/"].body.replace(
            SHA.encode(), b"0" * 64
        )
        server.index("thing", ("thing-1.0.tar.gz", SDIST))
        using = index.IndexSettings((f"{refused}/", f"{server.url}/none/", f"{server.url}/wrong/", endpoint))
        assert index.find("thing", sha256=SHA, version="1.0", using=using).sha256 == SHA

    def test_wrong_hash_everywhere(self, server: Any) -> None:
        using = index.IndexSettings((server.index("thing", ("thing-1.0.tar.gz", b"others")),))
        with pytest.raises(VerificationError, match=f"expected sha256 {SHA}, found [0-9a-f]{{64}}"):
            index.find("thing", sha256=SHA, version="1.0", using=using)

    def test_nothing_there(self, server: Any, refused: str) -> None:
        endpoint = server.index("thing", ("thing-2.0.tar.gz", SDIST))
        with pytest.raises(
            FetchError, match=r"not found: .* does not list it, .*failed \(Connection refused"
        ):
            index.find(
                "thing", sha256=SHA, version="1.0", using=index.IndexSettings((endpoint, f"{refused}/"))
            )

    def test_only_local_folders(self) -> None:
        with pytest.raises(FetchError, match="set PYLLAMA_INDEX_URL"):
            index.find("thing", sha256=SHA, version="1", using=index.IndexSettings((), None, ("file:///x",)))

    def test_server_error_is_tried_again(self, server: Any) -> None:
        endpoint = server.index("thing", ("thing-1.0.tar.gz", SDIST))
        server.pages["/simple/thing/"].statuses = [503]
        assert index.find("thing", sha256=SHA, version="1.0", using=index.IndexSettings((endpoint,)))

    def test_not_an_index(self, server: Any, make_page: Any) -> None:
        server.pages["/simple/thing/"] = make_page(b"%PDF", "application/pdf")
        with pytest.raises(FetchError, match="does not answer like a package index"):
            index.find(
                "thing", sha256=SHA, version="1", using=index.IndexSettings((f"{server.url}/simple/",))
            )

    def test_credentials_are_used_and_never_shown(self, server: Any) -> None:
        endpoint = server.index("thing", ("thing-1.0.tar.gz", SDIST))
        secret = endpoint.replace("://", "://user:s3cret@")
        found = index.find("thing", sha256=SHA, version="1.0", using=index.IndexSettings((secret,)))
        expected = "Basic " + base64.b64encode(b"user:s3cret").decode()
        assert server.seen[0].headers["authorization"] == expected
        assert "user:s3cret@" in found.url
        assert "s3cret" not in repr(found)
        server.pages["/simple/thing/"].statuses = [403] * 4
        with pytest.raises(FetchError) as caught:
            index.find("thing", sha256=SHA, version="1.0", using=index.IndexSettings((secret,)))
        assert "HTTP 403" in str(caught.value)
        assert "s3cret" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_credentials_stay_with_their_host() -> None:
    own = "https://u:p@mirror:8443/simple/"
    assert net.with_credentials("https://mirror:8443/f.tar.gz", own) == "https://u:p@mirror:8443/f.tar.gz"
    for other in ("https://other/f", "http://mirror:8443/f", "https://mirror/f", "https://x@mirror:8443/f"):
        assert net.with_credentials(other, own) == other
    assert net.redact("see https://u:p@h/x?token=1 and http://k/") == "see https://h/x and http://k/"

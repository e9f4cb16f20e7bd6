from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pyllama.builder.fetch import pristine as module
from pyllama.builder.fetch.pristine import cached, fetch, status
from pyllama.builder.git import Git
from pyllama.builder.paths import Paths
from pyllama.builder.pins import GithubSource, IndexSource, Lock, Pin
from pyllama.builder.tree import TreeStore
from pyllama.errors import FetchError, UsageError, VerificationError

COMMIT = "c" * 40
FILES = {
    "CMakeLists.txt": b"project(x)\r\n",
    "src/a.cpp": b"int a;\n",
    "src/run.sh": b"#!/bin/sh\n",
    ".gitignore": b"*.log\n",
    "kept.log": b"tracked though ignored\n",
}
GITHUB = f"/some/where/archive/{COMMIT}.tar.gz"


@dataclass
class World:
    """A pin, a server with both of its sources, and where things go."""

    pin: Pin
    paths: Paths
    server: Any
    upstream: Path
    sdist: bytes
    tarball: bytes

    @property
    def folder(self) -> Path:
        return self.paths.vendor / self.pin.name

    def sdist_count(self) -> int:
        return int(self.server.count("/files/thing-1.0.tar.gz"))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if name.endswith(".sh"):
            path.chmod(0o755)
    return folder


def pack(files: dict[str, bytes], prefix: str, **more: bytes) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as out:
        for name, content in {**{prefix + k: v for k, v in files.items()}, **more}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = 0o755 if name.endswith(".sh") else 0o644
            out.addfile(info, io.BytesIO(content))
    return data.getvalue()


@pytest.fixture
def world(
    server: Any, make_page: Any, paths: Paths, tmp_path: Path, no_user_settings: Callable[..., None]
) -> World:
    upstream = write(tmp_path / "upstream", FILES)
    tree = TreeStore(tmp_path / "scratch.git").add(upstream)
    tarball = pack(FILES, f"where-{COMMIT}/")
    # As the real one: a gitfile that dangles, and a repository beside.
    inner = {".git": b"gitdir: ../../.git/modules/vendor/x\n", **FILES}
    sdist = pack(inner, "thing-1.0/vendor/x/", **{"thing-1.0/.git/HEAD": b"ref", "thing-1.0/setup.py": b""})
    sha = hashlib.sha256(sdist).hexdigest()
    pin = Pin(
        "2026-01", COMMIT, tree, "2026-01-01", "a test",
        GithubSource("some/where"), IndexSource("thing", "1.0", sha, "vendor/x"),
    )  # fmt: skip
    server.pages[GITHUB] = make_page(tarball)
    endpoint = server.index("thing", ("thing-1.0.tar.gz", sdist))
    # With these set, pip need not be asked, which takes long.
    no_user_settings(PIP_EXTRA_INDEX_URL="file:///nowhere", PIP_CERT=os.devnull)
    no_user_settings(PYLLAMA_GITHUB_URL=server.url, PYLLAMA_INDEX_URL=endpoint)
    return World(pin, paths, server, upstream, sdist, tarball)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def nothing_left(paths: Paths) -> bool:
    return list(paths.downloads.iterdir()) == []


def test_github_then_cache(world: World) -> None:
    first = fetch(world.pin, world.paths)
    assert (first.source, first.tree, first.folder) == ("github", world.pin.tree, world.folder)
    assert contents(world.folder) == FILES
    assert os.access(world.folder / "src/run.sh", os.X_OK)
    assert nothing_left(world.paths)
    requests = len(world.server.seen)
    assert fetch(world.pin, world.paths).source == "cache"
    assert fetch(world.pin, replace(world.paths, vendor=world.paths.vendor / "other")).source == "cache"
    assert len(world.server.seen) == requests


def test_named_index_drops_the_dangling_gitfile(world: World) -> None:
    assert fetch(world.pin, world.paths, source="index").source == "index"
    assert contents(world.folder) == FILES
    assert world.server.count(GITHUB) == 0
    assert nothing_left(world.paths)


def test_wrong_tree_tries_the_next(world: World) -> None:
    world.server.pages[GITHUB].body = pack({**FILES, "src/a.cpp": b"int b;\n"}, "where/")
    fetch(world.pin, world.paths, source="index")
    before = contents(world.folder)
    with pytest.raises(
        VerificationError, match=f"from github: expected tree {world.pin.tree}, found [0-9a-f]{{40}}"
    ):
        fetch(world.pin, world.paths, source="github")
    assert contents(world.folder) == before
    assert cached(world.pin, world.paths)
    fresh = replace(world.paths, cache=world.paths.cache / "b", vendor=world.paths.vendor / "b")
    assert fetch(world.pin, fresh).source == "index"


@pytest.mark.parametrize("fault", ["cut", "404", "500", "html", "truncated"])
def test_faulty_github_tries_the_next(world: World, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    page = world.server.pages[GITHUB]
    if fault == "cut":
        page.cuts = [10] * 20
    elif fault == "html":
        page.body = b"<html>log in</html>"
    elif fault == "truncated":
        page.body = page.body[:100]
    else:
        page.statuses = [int(fault)] * 20
    assert fetch(world.pin, world.paths).source == "index"
    assert contents(world.folder) == FILES
    assert nothing_left(world.paths)


def test_no_network(world: World, refused: str, no_user_settings: Callable[..., None]) -> None:
    no_user_settings(PYLLAMA_GITHUB_URL=refused, PYLLAMA_INDEX_URL=f"{refused}/simple/")
    start = time.monotonic()
    with pytest.raises(FetchError) as caught:
        fetch(world.pin, world.paths)
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert "github: " in message
    assert "index: " in message
    assert "--source path" in message
    assert "PYLLAMA_INDEX_URL" in message
    assert "\n" not in message
    assert not world.folder.exists()
    assert not cached(world.pin, world.paths)


def test_locked_sdist_was_replaced(world: World) -> None:
    world.server.index("thing", ("thing-1.0.tar.gz", b"other"))
    with pytest.raises(VerificationError, match="expected sha256"):
        fetch(world.pin, world.paths, source="index")
    world.server.index("thing", ("thing-1.0.tar.gz", world.sdist), lie=world.pin.index.sha256)  # type: ignore[union-attr]
    world.server.pages["/files/thing-1.0.tar.gz"].body = b"not what was listed"
    with pytest.raises(VerificationError, match="expected sha256"):
        fetch(world.pin, world.paths, source="index")


def test_interrupted_index_download_is_resumed_by_the_next_run(world: World) -> None:
    name = f"{world.pin.index.sha256}-thing-1.0.tar.gz.partial"  # type: ignore[union-attr]
    world.paths.downloads.mkdir(parents=True)
    (world.paths.downloads / name).write_bytes(world.sdist[:50])
    fetch(world.pin, world.paths, source="index")
    assert world.server.seen[-1].headers["range"] == "bytes=50-"


def test_edited_folder_is_left_alone(world: World) -> None:
    fetch(world.pin, world.paths)
    (world.folder / "src/a.cpp").write_text("mine")
    (world.folder / "new.txt").write_text("mine too")
    with pytest.raises(FetchError, match=r"was edited \(new.txt, src/a.cpp\) and is left alone"):
        fetch(world.pin, world.paths)
    assert (world.folder / "src/a.cpp").read_text() == "mine"


def test_emptied_cache_is_filled_from_a_clean_folder(world: World) -> None:
    fetch(world.pin, world.paths)
    world.server.pages.clear()
    fresh = replace(world.paths, cache=world.paths.cache / "new")
    assert fetch(world.pin, fresh).source == "cache"
    assert cached(world.pin, fresh)
    (world.folder / ".git").write_text("gitdir: nowhere")
    (world.folder / "src/a.cpp").write_text("mine")
    with pytest.raises(FetchError, match="could not be fetched"):
        fetch(world.pin, replace(world.paths, cache=world.paths.cache / "newer"))
    assert (world.folder / "src/a.cpp").read_text() == "mine"


@pytest.mark.parametrize("git", ["none", "folder", "gitfile", "nested", "repository"])
def test_path(world: World, git: str) -> None:
    if git == "folder":
        write(world.upstream, {".git/HEAD": b"ref: refs/heads/x\n"})
    elif git == "gitfile":
        write(world.upstream, {".git": b"gitdir: /nowhere\n"})
    elif git == "nested":
        write(world.upstream, {"src/.git": b"gitdir: /nowhere\n"})
    elif git == "repository":
        inner = Git(world.upstream / "src" / ".git", world.upstream / "src")
        inner.run("init", "-q")
        inner.run("add", ".")
        inner.run("-c", "user.name=x", "-c", "user.email=x@y", "commit", "-q", "-m", "x")
    found = fetch(world.pin, world.paths, path=world.upstream)
    assert found.source == "path"
    assert contents(world.folder) == FILES
    assert world.server.seen == []


def test_path_relative_or_an_unpacked_sdist(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fetch(world.pin, world.paths, path=Path("upstream")).folder == world.folder
    write(tmp_path / "sdist" / "vendor" / "x", FILES)
    fresh = replace(world.paths, cache=tmp_path / "c2", vendor=tmp_path / "v2")
    assert fetch(world.pin, fresh, source="path", path=Path("sdist")).source == "path"


def test_path_that_is_wrong(world: World, tmp_path: Path) -> None:
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    for place, message in (
        ("none", "is not a folder"),
        ("pins.toml", "is not a folder"),
        ("empty", "holds no files"),
    ):
        with pytest.raises(FetchError, match=message):
            fetch(world.pin, world.paths, path=tmp_path / place)
    write(world.upstream, {"build/x.o": b"x"})
    with pytest.raises(VerificationError, match=f"give exactly the files of commit {COMMIT}"):
        fetch(world.pin, world.paths, path=world.upstream)
    assert not world.folder.exists()


@pytest.mark.parametrize("kind", ["tarball", "sdist", "bare"])
def test_archive(world: World, tmp_path: Path, kind: str) -> None:
    bare = pack(FILES, "")
    (tmp_path / "a").write_bytes({"tarball": world.tarball, "sdist": world.sdist, "bare": bare}[kind])
    assert fetch(world.pin, world.paths, archive=tmp_path / "a").source == "archive"
    assert contents(world.folder) == FILES
    assert (tmp_path / "a").exists()


def test_wrong_usage(world: World, tmp_path: Path) -> None:
    for options, message in (
        ({"source": "ftp"}, "choose one of cache, github, index, path, archive"),
        ({"source": "path"}, "needs --path"),
        ({"source": "github", "path": tmp_path}, "takes no --path"),
        ({"path": tmp_path, "archive": tmp_path}, "exclude each other"),
    ):
        with pytest.raises(UsageError, match=message):
            fetch(world.pin, world.paths, **options)
    with pytest.raises(FetchError, match="from cache: it is not there"):
        fetch(world.pin, world.paths, source="cache")
    with pytest.raises(FetchError, match="names no source"):
        fetch(replace(world.pin, github=None, index=None), world.paths)


def test_cache_that_cannot_be_written(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="set PYLLAMA_CACHE"):
        fetch(world.pin, replace(world.paths, cache=tmp_path / "file"))


def test_what_a_killed_fetch_left_is_no_obstacle(world: World) -> None:
    write(world.paths.downloads / f"{world.pin.name}.work" / "tree", {"half": b""})
    assert fetch(world.pin, world.paths).source == "github"
    assert nothing_left(world.paths)


def test_two_at_once_download_once(world: World) -> None:
    world.server.pages[GITHUB].delay = 0.5
    program = (
        "import sys; from pathlib import Path\n"
        "from pyllama.builder.fetch.pristine import fetch; from pyllama.builder.paths import Paths\n"
        "from pyllama.builder.pins import GithubSource, Pin\n"
        "top, tree, commit = Path(sys.argv[1]), sys.argv[2], sys.argv[3]\n"
        "places = Paths(top, top, top / 'vendor', top, top / 'cache')\n"
        "pin = Pin('2026-01', commit, tree, '', '', GithubSource('some/where'))\n"
        "print(fetch(pin, places).source)\n"
    )
    command = [sys.executable, "-c", program, str(world.paths.cache.parent), world.pin.tree, COMMIT]
    root = str(Path(module.__file__).parents[3])
    env = {**os.environ, "PYTHONPATH": root}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    said = sorted(process.communicate(timeout=30)[0].strip() for process in both)
    assert said == ["cache", "github"]
    assert world.server.count(GITHUB) == 1
    assert contents(world.folder) == FILES


def test_status_rows(world: World) -> None:
    other = replace(world.pin, name="2025-01", tree="0" * 40)
    lock = Lock("2026-01", (other, world.pin))
    assert [(row.in_cache, row.in_vendor) for row in status(lock, world.paths)] == [(False, False)] * 2
    assert not world.paths.cache.exists(), "asking makes nothing"
    fetch(world.pin, world.paths)
    rows = status(lock, world.paths)
    assert [(r.name, r.default, r.in_cache, r.in_vendor) for r in rows] == [
        ("2025-01", False, False, False),
        ("2026-01", True, True, True),
    ]
    assert rows[1].folder == world.folder

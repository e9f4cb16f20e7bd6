from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pyllama.builder.fetch.archive import extract, read_member
from pyllama.builder.fetch.members import Limits
from pyllama.errors import FetchError, VerificationError


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, linkname=target)


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: Any = "w:gz") -> Path:
    with tarfile.open(path, mode) as out:
        for info, content in members:
            out.addfile(info, io.BytesIO(content))
    return path


GOOD = (
    member("top", type=tarfile.DIRTYPE, mode=0o755),
    member("top/a.txt", b"a"),
    member("top/run.sh", b"#!/bin/sh", mode=0o755),
    member("top/vendor/x/b.txt", b"b"),
    link("top/vendor/x/l", "../../a.txt"),
    link("top/vendor/x/here", "b.txt"),
)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_tars(tmp_path: Path, mode: str) -> None:
    out = extract(tar(tmp_path / "t", *GOOD, mode=mode), tmp_path / "out")
    assert names(out) == ["a.txt", "run.sh", "vendor/x/b.txt", "vendor/x/here", "vendor/x/l"]
    assert os.access(out / "run.sh", os.X_OK)
    assert not os.access(out / "a.txt", os.X_OK)
    assert os.readlink(out / "vendor/x/l") == "../../a.txt"


def test_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("top/a.txt", "a")
        for name, mode, content in (("top/run", 0o100755, "x"), ("top/l", 0o120777, "a.txt")):
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            out.writestr(info, content)
    folder = extract(tmp_path / "z", tmp_path / "out")
    assert names(folder) == ["a.txt", "l", "run"]
    assert os.access(folder / "run", os.X_OK)
    assert os.readlink(folder / "l") == "a.txt"


def test_subfolder_and_hard_links(tmp_path: Path) -> None:
    hard = link("top/vendor/x/same", "top/vendor/x/b.txt", tarfile.LNKTYPE)
    file = tar(tmp_path / "t", GOOD[3], hard, link("top/elsewhere", "/etc/passwd"))
    out = extract(file, tmp_path / "out", subfolder="vendor/x")
    assert names(out) == ["b.txt", "same"]
    with pytest.raises(FetchError, match="holds no folder vendor/y"):
        extract(file, tmp_path / "no", subfolder="vendor/y")
    assert not (tmp_path / "no").exists()


def test_git_is_dropped(tmp_path: Path) -> None:
    file = tar(
        tmp_path / "t",
        member("top/a", b"a"),
        member("top/.git", b"gitdir: ../nowhere"),
        member("top/sub/.git/HEAD", b"ref"),
        member("top/.gitignore", b"x"),
    )
    assert names(extract(file, tmp_path / "out")) == [".gitignore", "a"]


HOSTILE = {
    "up": [member("top/../../evil", b"x")],
    "absolute": [member("/evil", b"x")],
    "link up": [link("top/l", "../evil")],
    "link up from below": [link("top/a/l", "../../evil")],
    "absolute link": [link("top/l", "/etc/passwd")],
    "link through a link": [link("top/a/b", ".."), link("top/l", "a/b/../../evil")],
    "file through a link": [link("top/l", "d"), member("top/l/f", b"x")],
    "link behind a link": [member("top/d/f", b""), link("top/l", "d"), link("top/l/k", "f")],
    "hard link out": [link("top/l", "../../etc/passwd", tarfile.LNKTYPE)],
    "hard link to nothing": [link("top/l", "top/none", tarfile.LNKTYPE)],
    "device": [member("top/d", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "pipe": [member("top/p", type=tarfile.FIFOTYPE)],
    "twice": [member("top/f", b"1"), member("top/f", b"2")],
    "empty": [],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_tars(tmp_path: Path, kind: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    file = tar(inner / "t.tar.gz", *HOSTILE[kind])
    with pytest.raises(FetchError, match=r"t\.tar\.gz"):
        extract(file, inner / "out")
    assert names(tmp_path) == ["inner/t.tar.gz"]


def test_hostile_zips(tmp_path: Path) -> None:
    up = [("top/../../evil", 0, "x")]
    out_at_once = [("top/l", 0o120777, "../evil")]
    out_in_two = [("top/a/b", 0o120777, ".."), ("top/l", 0o120777, "a/b/../../evil")]
    for members in (up, out_at_once, out_in_two):
        file = tmp_path / "z.zip"
        with zipfile.ZipFile(file, "w") as out:
            for name, mode, content in members:
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                out.writestr(info, content)
        with pytest.raises(FetchError, match="leads out of the folder"):
            extract(file, tmp_path / "out")
    assert names(tmp_path) == ["z.zip"]


def test_bombs(tmp_path: Path) -> None:
    big = tar(tmp_path / "big", member("other/zeros", bytes(5_000_000)), member("top/a", b"a"))
    many = tar(tmp_path / "many", *(member(f"top/{n}", b"") for n in range(50)))
    # A pax header is data that tarfile reads before anyone sees a member.
    info = member("top/a", b"a", pax_headers={"comment": "x" * 5_000_000})
    with tarfile.open(tmp_path / "pax", "w:gz", format=tarfile.PAX_FORMAT) as out:
        out.addfile(info[0], io.BytesIO(b"a"))
    with zipfile.ZipFile(tmp_path / "zip", "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("top/zeros", bytes(5_000_000))
    for file in (big, many, tmp_path / "pax", tmp_path / "zip"):
        with pytest.raises(FetchError, match="unpacks to more than is allowed"):
            extract(file, tmp_path / "out", limits=Limits(size=1_000_000, members=49))
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_cut_archives(tmp_path: Path, mode: str) -> None:
    file = tar(tmp_path / "t", member("top/a", os.urandom(200_000)), mode=mode)
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(FetchError, match="t is damaged or not an archive"):
        extract(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_not_an_archive(tmp_path: Path) -> None:
    for content in (b"", b"<html>no</html>", b"PK\x03\x04 and then nothing", b"\x1f\x8b\x08 broken"):
        (tmp_path / "t").write_bytes(content)
        with pytest.raises(FetchError, match="t is damaged or not an archive"):
            extract(tmp_path / "t", tmp_path / "out")


def test_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(FetchError, match="cannot be made"):
        extract(tar(tmp_path / "t", *GOOD), tmp_path / "out")
    assert names(tmp_path / "out") == ["mine"]


def test_python_without_a_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(FetchError, match="use Python"):
        extract(tar(tmp_path / "t", *GOOD), tmp_path / "out")


def test_member_of_a_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as out:
        out.writestr("pkg/data.bin", b"data")
    target = tmp_path / "deep" / "data"
    sha = hashlib.sha256(b"data").hexdigest()
    assert read_member(wheel, "pkg/data.bin", target, sha256=sha).read_bytes() == b"data"
    with pytest.raises(VerificationError, match=f"expected sha256 {'0' * 64}, found {sha}"):
        read_member(wheel, "pkg/data.bin", target, sha256="0" * 64)
    assert target.read_bytes() == b"data"
    with pytest.raises(FetchError, match="no member pkg/none"):
        read_member(wheel, "pkg/none", target, sha256=sha)
    wheel.write_bytes(wheel.read_bytes()[:40])
    with pytest.raises(FetchError, match="damaged or not a wheel"):
        read_member(wheel, "pkg/data.bin", target, sha256=sha)
    assert names(tmp_path) == ["deep/data", "w.whl"]

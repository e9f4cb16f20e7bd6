"""The members of a tar or zip, seen alike, one after the other."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol

from ...errors import FetchError

Kind = Literal["file", "folder", "symlink", "hardlink", "other"]


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to, whether or not it is wanted: bytes, and number of members."""

    size: int = 2 << 30
    members: int = 200_000


@dataclass(frozen=True)
class Entry:
    """One member: `name` as the archive has it, `target` of a link, and how to get at its bytes.

    `check(folder, name)` asks the archive format's own safety filter about it, if it has one.
    """

    name: str
    kind: Kind
    size: int
    executable: bool
    target: str
    read: Callable[[], IO[bytes]]
    check: Callable[[Path, str], None]


class _Reader(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


class _Counted(io.RawIOBase):
    """The unpacked bytes of a tar, which end in an error when there are more than the limit."""

    def __init__(self, inner: _Reader, limit: int) -> None:
        self._inner = inner
        self._left = limit

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._inner.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise FetchError("it unpacks to more than is allowed")
        return data


def entries(raw: IO[bytes], limits: Limits) -> Generator[Entry, None, None]:
    """Yield the members in order; each must be read before the next is asked for.

    The kind of archive is told by its first bytes, so its name does not matter.
    """
    magic = raw.read(6)
    raw.seek(0)
    if magic.startswith(b"PK"):
        yield from _zip_entries(raw)
        return
    inner: _Reader = raw
    if magic.startswith(b"\x1f\x8b"):
        inner = gzip.GzipFile(fileobj=raw)
    elif magic.startswith(b"\xfd7zXZ"):
        inner = lzma.LZMAFile(raw)  # noqa: SIM115 - closed with `raw`
    elif magic.startswith(b"BZh"):
        inner = bz2.BZ2File(raw)
    # Headers and padding count too; the members' own sizes are counted against the limit itself.
    counted = _Counted(inner, limits.size + limits.members * 4 * tarfile.BLOCKSIZE)
    with tarfile.open(fileobj=counted, mode="r|") as tar:
        for member in tar:
            yield _tar_entry(tar, member)


def _tar_entry(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    kind: Kind = "other"
    if member.isreg():
        kind = "file"
    elif member.isdir():
        kind = "folder"
    elif member.issym():
        kind = "symlink"
    elif member.islnk():
        kind = "hardlink"

    def read() -> IO[bytes]:
        data = tar.extractfile(member)
        if data is None:
            raise FetchError(f"{member.name} has no content")
        return data

    def check(folder: Path, name: str) -> None:
        tarfile.data_filter(member.replace(name=name, deep=False), str(folder))

    executable = bool(member.mode & 0o100)
    return Entry(member.name, kind, member.size, executable, member.linkname, read, check)


def _zip_entries(raw: IO[bytes]) -> Generator[Entry, None, None]:
    with zipfile.ZipFile(raw) as package:
        for info in package.infolist():
            yield _zip_entry(package, info)


def _zip_entry(package: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    mode = info.external_attr >> 16
    kind: Kind = "file"
    target = ""
    if info.is_dir():
        kind = "folder"
    elif stat.S_ISLNK(mode):
        kind = "symlink"
        if info.file_size > 4096:
            raise FetchError(f"the link {info.filename} is too long")
        target = os.fsdecode(package.read(info))
    elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        kind = "other"
    executable = bool(mode & 0o100)
    return Entry(
        info.filename, kind, info.file_size, executable, target, lambda: package.open(info), _no_check
    )


def _no_check(folder: Path, name: str) -> None:
    """Zip has no filter of its own; `archive` checks names and links of both kinds."""

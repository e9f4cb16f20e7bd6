"""Taking files out of archives that nobody has to trust."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from contextlib import closing
from pathlib import Path

from ...errors import FetchError, VerificationError
from ..progress import Stage
from .members import Entry, Limits, entries

_BROKEN = (EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile)
_COPY_BYTES = 1 << 18


def extract(
    archive: Path,
    destination: Path,
    *,
    subfolder: str = "",
    strip: int = 1,
    limits: Limits | None = None,
    stage: Stage | None = None,
) -> Path:
    """Unpack a .tar, .tar.gz, .tar.xz, .tar.bz2 or .zip to the new folder `destination`.

    `strip` leading components are taken off every name; then only what lies in `subfolder` is
    unpacked. Anything called `.git` is left out: upstream's trees have none, and a gitfile that
    leads nowhere makes git fail. Raises FetchError for an archive that is broken, hostile, too
    large or without such a folder, and leaves nothing behind then.
    """
    if not hasattr(tarfile, "data_filter"):
        raise FetchError(
            "this Python's tarfile cannot unpack safely: use Python 3.10.12, 3.11.4, 3.12 or a newer one"
        )
    wanted = tuple(part for part in subfolder.split("/") if part)
    try:
        destination.mkdir(parents=True)
    except OSError as error:
        raise FetchError(f"{destination} cannot be made ({error.strerror}): remove it") from error
    try:
        written = _unpack(archive, destination, wanted, strip, limits or Limits(), stage)
        if not written:
            raise FetchError(f"it holds no folder {subfolder}" if subfolder else "it holds no files")
    except BaseException as error:
        shutil.rmtree(destination, ignore_errors=True)
        if isinstance(error, FetchError):
            raise FetchError(f"{archive.name} cannot be unpacked: {error}") from None
        if isinstance(error, _BROKEN):
            raise FetchError(f"{archive.name} is damaged or not an archive ({_words(error)})") from error
        if isinstance(error, (OSError, RuntimeError, ValueError)):
            raise FetchError(f"{archive.name} cannot be unpacked ({_words(error)})") from error
        raise
    return destination


def read_member(
    wheel: Path, member: str, destination: Path, *, sha256: str, stage: Stage | None = None
) -> Path:
    """Read one member out of a wheel to `destination`, which appears only when its sha256 is right.

    Raises FetchError for a wheel that is broken or lacks it, VerificationError for other bytes.
    """
    digest = hashlib.sha256()
    temporary: str | None = None
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{destination.name}.", dir=destination.parent)
        with os.fdopen(handle, "wb") as out, zipfile.ZipFile(wheel) as package:
            info = package.getinfo(member)
            with package.open(info) as source:
                while chunk := source.read(_COPY_BYTES):
                    digest.update(chunk)
                    out.write(chunk)
                    if stage is not None:
                        stage.update(out.tell(), info.file_size, "unpacking")
        if digest.hexdigest() != sha256:
            raise VerificationError(
                f"{member} in {wheel.name}: expected sha256 {sha256}, found {digest.hexdigest()}"
            )
        os.chmod(temporary, 0o644)
        os.replace(temporary, destination)
    except KeyError:
        raise FetchError(f"{wheel.name} has no member {member}") from None
    except _BROKEN as error:
        raise FetchError(f"{wheel.name} is damaged or not a wheel ({_words(error)})") from error
    except (OSError, RuntimeError) as error:
        raise FetchError(f"{member} cannot be read out of {wheel.name} ({_words(error)})") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return destination


def _unpack(
    archive: Path,
    destination: Path,
    wanted: tuple[str, ...],
    strip: int,
    limits: Limits,
    stage: Stage | None,
) -> int:
    """Write the wanted members below `destination` and return how many files there were."""
    written = members = size = 0
    links: list[tuple[Path, Entry, tuple[str, ...]]] = []
    with archive.open("rb") as raw, closing(entries(raw, limits)) as found:
        total = os.fstat(raw.fileno()).st_size
        for entry in found:
            members += 1
            size += entry.size
            if members > limits.members or size > limits.size:
                raise FetchError("it unpacks to more than is allowed")
            parts = _inside(_parts(entry.name), strip, wanted)
            if not parts or any(part.lower() == ".git" for part in parts):
                continue
            place = destination.joinpath(*parts)
            if entry.kind == "symlink":
                _check_target(entry, parts)
                # Made last: while files are written, no link is there that one could go through.
                links.append((place, entry, parts))
            elif entry.kind == "folder":
                place.mkdir(parents=True, exist_ok=True)
            elif entry.kind == "other":
                raise FetchError(f"{entry.name} is neither a file, a folder nor a link")
            else:
                entry.check(destination, "/".join(parts))
                place.parent.mkdir(parents=True, exist_ok=True)
                if entry.kind == "hardlink":
                    _copy_link(entry, destination, strip, wanted, place)
                else:
                    _write(entry, place)
                written += 1
            if stage is not None and members % 100 == 1:
                stage.update(raw.tell(), total, "unpacking")
    for place, entry, parts in links:
        entry.check(destination, "/".join(parts))
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.parent.resolve() != destination.resolve() / place.parent.relative_to(destination):
            raise FetchError(f"{entry.name} lies behind a link")
        os.symlink(entry.target, place)
    return written + len(links)


def _parts(name: str) -> tuple[str, ...]:
    """Split a member's name; FetchError when it could lead out of the folder."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name:
        raise FetchError(f"the name {name!r} leads out of the folder")
    if os.name == "nt" and any(":" in part or "\\" in part for part in parts):
        raise FetchError(f"the name {name!r} leads out of the folder")
    return parts


def _inside(parts: tuple[str, ...], strip: int, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the name below the wanted folder, or nothing when it is not in there."""
    rest = parts[strip:]
    return rest[len(wanted) :] if rest[: len(wanted)] == wanted else ()


def _check_target(entry: Entry, parts: tuple[str, ...]) -> None:
    """Refuse a link that leads out of the folder, by itself or through another one.

    `..` may only come first, where it climbs real folders: after another name it could climb
    from wherever a link of that name leads to.
    """
    target = entry.target.split("/")
    climbs = 0
    while climbs < len(target) and target[climbs] == "..":
        climbs += 1
    hostile = entry.target.startswith("/") or "\\" in entry.target or "\0" in entry.target
    if not entry.target or hostile or ".." in target[climbs:] or climbs > len(parts) - 1:
        raise FetchError(f"the link {entry.name} leads out of the folder")


def _copy_link(entry: Entry, destination: Path, strip: int, wanted: tuple[str, ...], place: Path) -> None:
    target = _inside(_parts(entry.target), strip, wanted)
    source = destination.joinpath(*target)
    if not target or not source.is_file():
        raise FetchError(f"the link {entry.name} leads to something that is not there")
    with source.open("rb") as data, place.open("xb") as out:
        shutil.copyfileobj(data, out)
    place.chmod(stat.S_IMODE(source.stat().st_mode))


def _write(entry: Entry, place: Path) -> None:
    with entry.read() as source, place.open("xb") as out:
        shutil.copyfileobj(source, out, _COPY_BYTES)
        if out.tell() != entry.size:
            raise FetchError(f"{entry.name} is cut short")
    if entry.executable:
        place.chmod(stat.S_IMODE(place.stat().st_mode) | 0o111)


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error) or type(error).__name__
    return " ".join(text.split())

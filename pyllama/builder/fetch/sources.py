"""Where a pin's files can come from; each source puts them into a folder, and trusts nobody.

What arrives is compared with the locked tree id by the caller, so a mirror is as good as upstream.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ...errors import FetchError, UsageError
from ..paths import Paths
from ..pins import Pin
from ..progress import Stage
from . import archive as archives

CACHE, GITHUB, INDEX, PATH, ARCHIVE = "cache", "github", "index", "path", "archive"
NAMES = (CACHE, GITHUB, INDEX, PATH, ARCHIVE)
_GITHUB = "https://github.com"
_MAX_BYTES = 512 << 20


@dataclass(frozen=True)
class Request:
    """What the user asked for: one source, or none for the usual order."""

    source: str | None = None
    path: Path | None = None
    archive: Path | None = None

    def order(self, pin: Pin) -> tuple[str, ...]:
        """Return the sources to try, in order."""
        if self.source is not None:
            return (self.source,)
        network = ((GITHUB, pin.github), (INDEX, pin.index))
        return (CACHE, *(name for name, place in network if place is not None))


def request(source: str | None, path: Path | None, archive: Path | None) -> Request:
    """Check what the user asked for; `path` and `archive` imply the source of their name.

    Raises UsageError for an unknown source, or arguments that contradict each other.
    """
    if source is not None and source not in NAMES:
        raise UsageError(f"there is no source {source!r}: choose one of {', '.join(NAMES)}")
    given = {PATH: path, ARCHIVE: archive}
    for name, place in given.items():
        if place is not None and source not in (None, name):
            raise UsageError(f"--source {source} takes no --{name}: leave one of them out")
        if place is None and source == name:
            raise UsageError(f"--source {name} needs --{name} and where it is")
    if path is not None and archive is not None:
        raise UsageError("--path and --archive exclude each other: leave one of them out")
    implied = PATH if path is not None else ARCHIVE if archive is not None else source
    return Request(implied, path, archive)


def obtain(name: str, pin: Pin, asked: Request, paths: Paths, work: Path, stage: Stage) -> Path:
    """Return a folder with what source `name` has for `pin`; copies are made below `work`.

    Raises FetchError with the reason when the source cannot deliver.
    """
    if name == GITHUB:
        return _from_github(pin, paths, work, stage)
    if name == INDEX:
        return _from_index(pin, paths, work, stage)
    subfolder = pin.index.subfolder if pin.index is not None else ""
    if name == PATH and asked.path is not None:
        return from_path(asked.path.expanduser().absolute(), subfolder, work)
    if name == ARCHIVE and asked.archive is not None:
        return from_archive(asked.archive.expanduser(), subfolder, work, stage)
    raise FetchError(f"the {name} has nothing")


def _from_github(pin: Pin, paths: Paths, work: Path, stage: Stage) -> Path:
    # Here, not above: requests takes long to import, and most commands never fetch.
    from .download import download

    if pin.github is None:
        raise FetchError(f"pin {pin.name} names no repository")
    base = os.environ.get("PYLLAMA_GITHUB_URL", "").rstrip("/") or _GITHUB
    url = f"{base}/{pin.github.repository}/archive/{pin.commit}.tar.gz"
    file = paths.downloads / f"{pin.commit}.tar.gz"
    try:
        download(url, file, max_bytes=_MAX_BYTES, stage=stage)
        return archives.extract(file, work / "tree", stage=stage)
    finally:
        file.unlink(missing_ok=True)


def _from_index(pin: Pin, paths: Paths, work: Path, stage: Stage) -> Path:
    from . import index
    from .download import download

    if pin.index is None:
        raise FetchError(f"pin {pin.name} names no sdist")
    locked = pin.index
    user = index.settings()
    stage.update(0, text=f"looking for {locked.project} {locked.version}")
    found = index.find(locked.project, sha256=locked.sha256, version=locked.version, using=user)
    # Named by content: two pins, or a changed lock, never resume each other's download.
    file = paths.downloads / f"{locked.sha256}-{found.filename}"
    with user.session() as session:
        download(found.url, file, sha256=locked.sha256, max_bytes=_MAX_BYTES, session=session, stage=stage)
    try:
        return archives.extract(file, work / "tree", subfolder=locked.subfolder, stage=stage)
    finally:
        file.unlink(missing_ok=True)


def from_path(path: Path, subfolder: str, work: Path) -> Path:
    """Return `path`, the `subfolder` in it when there is one, or a copy below `work` that has no `.git`.

    Raises FetchError when it is no folder, is empty, or cannot be read.
    """
    if not path.is_dir():
        raise FetchError(f"{path} is not a folder: give the one with upstream's files")
    # An unpacked sdist is as good as the folder inside it.
    inner = path / subfolder
    folder = inner if subfolder and inner.is_dir() else path
    files = repositories = 0

    def unreadable(error: OSError) -> None:
        raise FetchError(f"{error.filename} cannot be read ({error.strerror}): make it readable")

    for _, folders, names in os.walk(folder, onerror=unreadable):
        repositories += (".git" in folders) + (".git" in names)
        folders[:] = [name for name in folders if name != ".git"]
        files += len(names) - (".git" in names)
    if not files:
        raise FetchError(f"{path} holds no files: give the folder with upstream's files")
    if not repositories:
        return folder
    # git takes a folder with `.git` for a repository of its own, and fails at one that dangles.
    try:
        copy = shutil.copytree(folder, work / "tree", symlinks=True, ignore=shutil.ignore_patterns(".git"))
    except shutil.Error as error:
        raise FetchError(f"{path} cannot be copied ({error.args[0][0][2]})") from error
    except OSError as error:
        raise FetchError(f"{path} cannot be copied ({error.strerror})") from error
    return Path(copy)


def from_archive(archive: Path, subfolder: str, work: Path, stage: Stage) -> Path:
    """Unpack an archive below `work` and return the folder of upstream's files in there.

    Raises FetchError when it is not an archive, or one that is broken or hostile.
    """
    if not archive.is_file():
        raise FetchError(f"{archive} is not a file: give an archive of upstream's files")
    folder = archives.extract(archive, work / "tree", strip=0, stage=stage)
    children = list(folder.iterdir())
    if len(children) == 1 and children[0].is_dir() and not children[0].is_symlink():
        folder = children[0]
    inner = folder / subfolder
    return inner if subfolder and inner.is_dir() and not inner.is_symlink() else folder

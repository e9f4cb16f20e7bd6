"""Where things are: the lock and the patches, the work folders, the user's cache.

In a checkout, trees and builds are worked on in `vendor/` and `build/`; an installed pyllama
works in the cache folder instead. What is finished is kept in the cache, by content.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..places import cache_dir

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Paths:
    """Folders and files of one installation."""

    pins: Path
    """The lock, `pins.toml`."""
    patches: Path
    """The patch stack: `series.toml` and a folder per feature."""
    vendor: Path
    """Pristine trees, one folder per pin."""
    build: Path
    """Patched trees and compilations, one folder per pin and key."""
    cache: Path
    """The user's cache folder, shared by checkouts and installations."""
    on_top: tuple[Path, ...] = ()
    """Series that are carried on top of the patch stack, in order."""

    @property
    def objects(self) -> Path:
        """A bare git object store with every file of every tree ever verified."""
        return self.cache / "objects.git"

    @property
    def downloads(self) -> Path:
        """Downloads under way; a finished one is unpacked elsewhere and removed."""
        return self.cache / "downloads"

    @property
    def builds(self) -> Path:
        """Finished builds, one folder per pin and key."""
        return self.cache / "builds"

    @property
    def models(self) -> Path:
        """Model files, named by their sha256."""
        return self.cache / "models"

    @property
    def locks(self) -> Path:
        """Lock files: two processes never write the same thing."""
        return self.cache / "locks"


def checkout() -> Path | None:
    """Return the root of the checkout that this package lies in, or None when installed."""
    root = _PACKAGE.parent
    return root if (root / "vendor" / "pins.toml").is_file() else None


def locate(on_top: Iterable[Path] = ()) -> Paths:
    """Find the folders for this process; `on_top` are series beside those that PYLLAMA_SERIES names."""
    cache = cache_dir()
    named = (Path(name) for name in os.environ.get("PYLLAMA_SERIES", "").split(os.pathsep) if name)
    carried = tuple(dict.fromkeys(path.expanduser().absolute() for path in (*named, *on_top)))
    root = checkout()
    if root is not None:
        return Paths(
            pins=root / "vendor" / "pins.toml",
            patches=root / "patches",
            vendor=root / "vendor",
            build=root / "build",
            cache=cache,
            on_top=carried,
        )
    data = _PACKAGE / "_data"
    return Paths(
        pins=data / "pins.toml",
        patches=data / "patches",
        vendor=cache / "work" / "vendor",
        build=cache / "work" / "build",
        cache=cache,
        on_top=carried,
    )

"""llama-cpp-python, unmodified and without its own libraries: out of the sdist that a pin is locked to."""

from __future__ import annotations

from pathlib import Path

from pyllama.builder.fetch import archive, index
from pyllama.builder.fetch.download import download
from pyllama.builder.pins import Pin


def llama_cpp_python(pin: Pin, folder: Path) -> Path:
    """Unpack its Python files below `folder` and return the folder to import `llama_cpp` from."""
    source = pin.index
    assert source is not None, f"pin {pin.name} is locked to no sdist"
    using = index.settings()
    found = index.find(source.project, sha256=source.sha256, version=source.version, using=using)
    sdist = folder / found.filename
    with using.session() as session:
        download(found.url, sdist, sha256=source.sha256, session=session)
    unpacked = archive.extract(sdist, folder / "peer" / "llama_cpp", subfolder="llama_cpp")
    sdist.unlink()
    return unpacked.parent

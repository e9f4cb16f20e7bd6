"""Write what the wheels are made from: a folder with the core, and a project for each backend's plug-in."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from pyllama.builder import finished
from pyllama.builder.verify import elf
from pyllama.errors import BuildError
from pyllama.native.plugins import GROUP

from . import cut

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = Path(__file__).resolve().parents[1] / "template"
CORE = "pyllama-cffi"
_PROVENANCE = "provenance.json"
_CUDART = re.compile(r"libcudart\.so\.(\d+)")
_PACKAGED = re.compile(r"nvidia/cu(\d+)/lib")


@dataclass(frozen=True)
class Names:
    """What a backend's distribution is called and requires."""

    distribution: str
    package: str
    requires: tuple[str, ...]


def version() -> str:
    """Return the version of the checkout's pyllama-cffi."""
    table = tomlkit.parse((ROOT / "pyproject.toml").read_text(encoding="utf-8")).unwrap()
    return str(table["project"]["version"])


def names(backend: str, of: str, library: elf.Library | None) -> Names:
    """Name the distribution of a backend for version `of` of the core.

    A plug-in of CUDA bears the toolkit's major version, as it runs with no other, and requires NVIDIA's
    packages when it looks for the libraries there.
    """
    needed = library.needed if library else ()
    run_paths = library.run_paths if library else ()
    suffix = next((match[1] for name in needed if (match := _CUDART.fullmatch(name))), "")
    packaged = {match[1] for path in run_paths if (match := _PACKAGED.search(path))}
    requires = [f"{CORE}=={of}"]
    for major in sorted(packaged):
        bounds = f">={major},<{int(major) + 1}"
        requires += [f"nvidia-cublas{bounds}", f"nvidia-cuda-runtime{bounds}"]
    tail = backend + suffix
    return Names(f"{CORE}-{tail}", f"{CORE.replace('-', '_')}_{tail}".replace("-", "_"), tuple(requires))


def licenses(build: Path, backend: str = "") -> list[str]:
    """Return the licences of what a backend's plug-in, or else the core, of a build was compiled of.

    Raises BuildError when the build does not say them all.
    """
    return cut.licenses(finished.read(build), _provenance(build), backend)


def write_core(build: Path, out: Path) -> None:
    """Write the core of a finished build as a finished build of its own."""
    part, told = cut.cut_core(finished.read(build), _provenance(build))
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        fresh = Path(scratch) / "build"
        _copy(build, part.files, fresh)
        write_json(fresh / _PROVENANCE, told)
        finished.finish(fresh, part.manifest, out)


def refresh(build: Path) -> None:
    """Bring the manifests of a build up to date with its libraries, which auditwheel has changed."""
    info, told = finished.read(build), _provenance(build)
    for row in told["libraries"]:
        library = elf.read(build / row["file"])
        row["needs"] = list(library.needed) if library else row["needs"]
    write_json(build / _PROVENANCE, told)
    sizes = {name: (build / name).stat().st_size for name in info["files"]}
    write_json(build / "build.json", {**info, "files": sizes})


def write_plugin(build: Path, backend: str, of: str, out: Path) -> Names:
    """Write the project of a backend's wheel for version `of` of the core; return its names.

    Raises UsageError when the build has no such plug-in, BuildError when that is not of this build.
    """
    part = cut.cut_plugin(finished.read(build), _provenance(build), backend)
    library = build / part.files[0]
    _check_identity(library, part.manifest["identity"])
    called = names(backend, of, elf.read(library))
    package = out / called.package
    package.mkdir(parents=True)
    shutil.copy2(library, package / library.name)
    shutil.copyfile(TEMPLATE / "__init__.py", package / "__init__.py")
    write_json(package / "plugin.json", part.manifest)
    for file in (ROOT / "LICENSE", *(build / name for name in part.files[1:])):
        shutil.copyfile(file, out / file.name)
    title = f"The backend {backend} of pyllama's patched llama.cpp ({part.manifest['pin']})"
    (out / "README.md").write_text(_readme(title, called, part.manifest), encoding="utf-8")
    (out / "pyproject.toml").write_text(_pyproject(title, called, backend, of), encoding="utf-8")
    return called


def _readme(title: str, called: Names, manifest: dict[str, Any]) -> str:
    return (
        f"# {called.distribution}\n\n{title}.\n"
        f"It holds one library, which pyllama finds once this is installed, and works with the {CORE}\n"
        "that was made from the same build:\n\n"
        f"- pin `{manifest['pin']}`, upstream's commit `{manifest['commit']}`\n"
        f"- patched tree `{manifest['key']}`\n- build `{manifest['build_key']}`\n"
    )


def _pyproject(title: str, called: Names, backend: str, of: str) -> str:
    table: Any = tomlkit.parse((TEMPLATE / "pyproject.toml").read_text(encoding="utf-8"))
    project = table["project"]
    project["name"], project["version"], project["description"] = called.distribution, of, title
    project["dependencies"] = list(called.requires)
    project["entry-points"][GROUP][backend] = f"{called.package}:FOLDER"
    table["tool"]["scikit-build"]["wheel"]["packages"] = [called.package]
    return tomlkit.dumps(table)


def _check_identity(library: Path, identity: str) -> None:
    """Refuse a library that says something else of itself; it is not loaded, as its driver may be missing."""
    read = elf.read(library)
    says_nothing = read is not None and "pyllama_identity" not in read.exports
    if says_nothing or identity.encode() + b"\0" not in library.read_bytes():
        raise BuildError(f"{library} is not of the build that it lies in: build it again with --force")


def _copy(build: Path, files: Iterable[str], out: Path) -> None:
    for name in files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(build / name, out / name)


def _provenance(build: Path) -> dict[str, Any]:
    try:
        table: dict[str, Any] = json.loads((build / _PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{build / _PROVENANCE} cannot be read ({error}): build it again") from error
    return table


def write_json(path: Path, table: object) -> None:
    """Write JSON as the builder does: one form for one content."""
    text = json.dumps(table, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")

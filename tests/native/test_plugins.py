"""Plug-ins of the build and of distributions, found by real metadata on the path; nothing is loaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyllama.errors import LoadError
from pyllama.native import plugins
from pyllama.native.installed import BuildInfo
from pyllama.native.plugins import BUILD, Plugin, find, mismatch, names

KEY = "a" * 64
Install = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildInfo:
    """A build with the CPU and RPC; no distribution of the environment counts."""
    monkeypatch.delenv("PYLLAMA_BUILD", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *(p for p in sys.path if "-packages" not in p)])
    return BuildInfo(
        pin="2026-10",
        commit="c" * 40,
        key=KEY,
        build_key="b" * 64,
        features=("view-copy",),
        backends=("cpu-all", "rpc"),
        plugins=("ggml-cpu-haswell", "ggml-cpu-x64", "ggml-rpc"),
        flavour="release",
        cpu="all",
        folder=tmp_path / "build",
    )


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution on the path as pip would; return the folder of its package."""

    def put(name: str, backend: str, *, says: str = "", library: bool = True, **identity: Any) -> Path:
        package = name.replace("-", "_")
        monkeypatch.delitem(sys.modules, package, raising=False)
        info = tmp_path / "site" / f"{package}-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 0.1.0\n\n")
        (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{backend} = {package}:FOLDER\n")
        folder = tmp_path / "site" / package
        folder.mkdir()
        (folder / "__init__.py").write_text("from pathlib import Path\nFOLDER = Path(__file__).parent\n")
        if library:
            (folder / f"libggml-{backend}.so").write_bytes(b"\x7fELF")
        table = {
            "schema": plugins.SCHEMA,
            "backend": says or backend,
            "library": f"libggml-{backend}.so",
            "identity": json.dumps({"pin": "2026-10", "key": KEY, **identity}),
        }
        (folder / "plugin.json").write_text(json.dumps(table))
        return folder

    return put


def test_the_builds_own(build: BuildInfo) -> None:
    assert find(build) == (Plugin("rpc", build.lib_dir / "libggml-rpc.so", BUILD),)
    assert mismatch(find(build)[0], build) is None


def test_those_of_distributions_come_after_the_builds(build: BuildInfo, install: Install) -> None:
    folder = install("pyllama-cffi-vulkan", "vulkan")
    own, distributed = find(build)
    assert own.source == BUILD
    assert distributed == Plugin("vulkan", folder / "libggml-vulkan.so", "pyllama-cffi-vulkan")
    assert mismatch(distributed, build) is None


def test_the_builds_own_wins_and_the_other_is_not_even_imported(build: BuildInfo, install: Install) -> None:
    install("pyllama-cffi-rpc", "rpc").joinpath("__init__.py").write_text("1 / 0\n")
    assert [plugin.source for plugin in find(build)] == [BUILD]
    with pytest.raises(LoadError, match="pyllama-cffi-rpc is damaged"):
        find(replace(build, plugins=("ggml-cpu",)))


def test_a_build_that_was_named_stands_alone(
    build: BuildInfo, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("pyllama-cffi-vulkan", "vulkan")
    monkeypatch.setenv("PYLLAMA_BUILD", str(build.folder))
    assert [plugin.backend for plugin in find(build)] == ["rpc"]


def test_of_what_is_not_wanted_nothing_is_imported(build: BuildInfo, install: Install) -> None:
    install("pyllama-cffi-vulkan", "vulkan").joinpath("__init__.py").write_text("1 / 0\n")
    install("pyllama-cffi-cuda13", "cuda")
    assert names(build) == ("rpc", "cuda", "vulkan")
    assert [plugin.backend for plugin in find(build, ["cuda"])] == ["cuda"]
    assert find(build, []) == ()
    with pytest.raises(LoadError, match="pyllama-cffi-vulkan is damaged"):
        find(build, ["vulkan"])


def test_two_distributions_of_a_backend(build: BuildInfo, install: Install) -> None:
    install("pyllama-cffi-vulkan", "vulkan")
    install("acme-vulkan", "vulkan")
    with pytest.raises(LoadError, match="acme-vulkan and pyllama-cffi-vulkan both bring the backend vulkan"):
        find(build)


# No index is asked: there, the name may be a stranger's.
AGAIN = "`pip install --force-reinstall --no-deps --no-index --find-links FOLDER pyllama-cffi-vulkan`"


@pytest.mark.parametrize(
    ("field", "value"), [("pin", "2026-05"), ("key", "d" * 64)], ids=["another pin", "other features"]
)
def test_another_build_is_refused(build: BuildInfo, install: Install, field: str, value: str) -> None:
    install("pyllama-cffi-vulkan", "vulkan", **{field: value})
    said = mismatch(find(build)[1], build)
    assert said is not None and value[:12] in said and "\n" not in said
    for word in ("2026-10", KEY[:12], AGAIN):
        assert word in said
    assert "pip uninstall pyllama-cffi-vulkan" in said


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "library": (lambda folder: (folder / "libggml-vulkan.so").unlink(), r"libggml-vulkan\.so is missing"),
    "syntax": (lambda folder: (folder / "__init__.py").write_text("def"), "cannot be imported"),
    "folder": (lambda folder: (folder / "__init__.py").write_text(""), "cannot be imported"),
    "number": (lambda folder: (folder / "__init__.py").write_text("FOLDER = 1"), "cannot be imported"),
    "none": (lambda folder: (folder / "plugin.json").unlink(), r"plugin\.json cannot be read"),
    "cut": (lambda folder: (folder / "plugin.json").write_text("{"), r"plugin\.json cannot be read"),
    "list": (lambda folder: (folder / "plugin.json").write_text("[]"), r"plugin\.json cannot be read"),
    "schema": (lambda folder: change(folder, schema=99), "its schema is 99"),
    "identity": (lambda folder: change(folder, identity="{}"), r"plugin\.json cannot be read"),
    "no text": (lambda folder: change(folder, identity="[]"), r"plugin\.json cannot be read"),
    "backend": (lambda folder: change(folder, backend="cuda"), "brings the backend cuda, not vulkan"),
    "elsewhere": (lambda folder: change(folder, library="../libggml-vulkan.so"), "is missing"),
}


def change(folder: Path, **values: object) -> None:
    path = folder / "plugin.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_distribution(build: BuildInfo, install: Install, damage: str) -> None:
    folder = install("pyllama-cffi-vulkan", "vulkan")
    (folder.parent / "libggml-vulkan.so").write_bytes(b"\x7fELF")
    assert len(find(build)) == 2
    sys.modules.pop("pyllama_cffi_vulkan")
    do, message = DAMAGE[damage]
    do(folder)
    with pytest.raises(LoadError, match=message) as caught:
        find(build)
    said = str(caught.value)
    assert said.startswith("the distribution pyllama-cffi-vulkan is damaged (")
    assert said.endswith(
        f"install it again from the wheel that you had it from ({AGAIN}), or run "
        "`pip uninstall pyllama-cffi-vulkan`"
    )


def test_nothing_native_is_loaded(build: BuildInfo, install: Install) -> None:
    """The library in the distribution is four bytes, which no loader would take."""
    install("pyllama-cffi-vulkan", "vulkan")
    assert find(build)[1].path.read_bytes() == b"\x7fELF"

"""Plans, keys and finished builds. Real builds come from the machine's own cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from real_builds import SUFFIX, TestBuild

from pyllama.builder import build as builds
from pyllama.builder import compile as compiling
from pyllama.builder import exporting, finished
from pyllama.builder import plan as planning
from pyllama.builder.compile import cpu
from pyllama.builder.paths import Paths, locate
from pyllama.builder.plan import make_plan
from pyllama.builder.progress import Reporter
from pyllama.errors import BuildError, PatchError, UsageError


def test_key_follows_everything_that_decides_the_content(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = locate()
    base = make_plan(paths)
    assert make_plan(paths).key == base.key
    others = [
        make_plan(paths, wanted="none"),
        make_plan(paths, wanted=["view-copy"]),
        make_plan(paths, pin="2026-05"),
        make_plan(paths, backends=["rpc"]),
        make_plan(paths, flavour="asan"),
        make_plan(paths, chat=False),
    ]
    with monkeypatch.context() as patch:
        patch.setenv("CFLAGS", "-O0")
        others.append(make_plan(paths))
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "machine_features", lambda: ("x86_64", "AVX"))
        others.append(make_plan(paths))
    with monkeypatch.context() as patch:
        patch.setattr(planning, "bindings", lambda: "other")
        others.append(make_plan(paths))
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "fingerprint", lambda: "other")
        others.append(make_plan(paths))
    keys = {base.key, *(other.key for other in others)}
    assert len(keys) == 1 + len(others)


def test_the_cpu_is_always_there_and_first() -> None:
    names = [row.name for row in make_plan(locate(), backends=["rpc"]).backends]
    assert names == ["cpu", "rpc"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"pin": "1999-01"}, "1999-01.*2025-08.*2026-05.*2026-10"),
        ({"wanted": ["no-such"]}, "no feature 'no-such'.*view-copy"),
        ({"backends": ["abacus"]}, "no backend is called 'abacus': choose from auto, cpu"),
        ({"flavour": "vanilla"}, "no flavour is called 'vanilla': choose from release, asan"),
    ],
)
def test_unknown_names(choice: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(locate(), **choice)  # type: ignore[arg-type]


def test_a_plan_can_be_made_without_cffi(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that building can say what is missing, in one sentence."""

    def none(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", none)
    assert make_plan(locate()).key


@pytest.fixture
def scratch(patched_build: TestBuild, pin: str | None, tmp_path: Path) -> Paths:
    """Folders of our own, with the finished build copied into the cache."""
    paths = locate()
    key = make_plan(paths, pin=pin).key
    cache = tmp_path / "cache"
    shutil.copytree(patched_build.folder, cache / "builds" / f"{patched_build.pin}-{key[:16]}")
    return replace(paths, cache=cache, build=tmp_path / "build", vendor=tmp_path / "vendor")


def test_a_finished_build_needs_no_source(scratch: Paths, pin: str | None) -> None:
    done = builds.build(scratch, make_plan(scratch, pin=pin), Reporter(quiet=True))
    assert done.cached
    assert not scratch.build.exists() and not scratch.objects.exists()


@pytest.mark.parametrize(
    "damage", ["build.json", f"lib/libllama{SUFFIX}", "include/ggml.h", "python/declared.json"]
)
def test_a_damaged_build_is_not_finished(scratch: Paths, damage: str) -> None:
    folder = next(scratch.builds.iterdir())
    assert finished.is_complete(folder)
    (folder / damage).write_bytes((folder / damage).read_bytes()[:-7])
    assert not finished.is_complete(folder)
    (folder / damage).unlink()
    assert not finished.is_complete(folder)


def test_an_edited_tree_is_not_served_from_the_cache(scratch: Paths, pin: str | None) -> None:
    from pyllama.builder.stack.apply import apply
    from pyllama.builder.tree import TreeStore

    plan = make_plan(scratch, pin=pin)
    store = TreeStore(locate().objects)
    patched = apply(plan.pin.name, plan.pin.tree, plan.features, scratch, store, Reporter(quiet=True))
    (scratch.cache / "objects.git").symlink_to(locate().objects)
    edited = patched.folder / "README.md"
    edited.write_text("mine")
    with pytest.raises(PatchError, match=r"README\.md"):
        builds.build(scratch, plan, Reporter(quiet=True))
    assert edited.read_text() == "mine"


def test_nothing_is_fetched_for_a_build_that_cannot_end(
    scratch: Paths, pin: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What binds and checks a build is asked for first, and not at all where the build is there."""
    plan, quiet = make_plan(scratch, pin=pin), Reporter(quiet=True)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "elftools", None)
        assert builds.build(scratch, plan, quiet).cached
        for options in ({"use_cache": False}, {"targets": ["llama-no-such"]}):
            with pytest.raises(BuildError, match="building needs pyelftools: pip install"):
                builds.build(scratch, plan, quiet, **options)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr("sysconfig.get_path", lambda _: str(scratch.cache))
        with pytest.raises(BuildError, match="python3-dev"):
            builds.build(scratch, plan, quiet, use_cache=False)
    assert not scratch.build.exists() and not scratch.objects.exists()


def test_export(scratch: Paths, pin: str | None, tmp_path: Path) -> None:
    done = builds.build(scratch, make_plan(scratch, pin=pin), Reporter(quiet=True))
    out = tmp_path / "out"
    for _ in range(2):  # the second replaces the first
        exporting.export(done, out)
        assert finished.is_complete(out)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="something that is not a build"):
        exporting.export(done, foreign)
    assert (foreign / "thesis.txt").read_text() == "mine"


def test_a_compile_error_is_one_sentence_and_leaves_nothing(
    scratch: Paths, pin: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scratch.cache / "objects.git").symlink_to(locate().objects)
    monkeypatch.setenv("CFLAGS", "-fno-such-flag")
    plan = make_plan(scratch, pin=pin)
    with pytest.raises(BuildError, match=r"CMake's configuration failed: .*the whole output is in"):
        builds.build(scratch, plan, Reporter(quiet=True))
    assert [p.name for p in scratch.builds.iterdir()] == [next(scratch.builds.iterdir()).name]


def test_stages_are_said_in_a_pipe(patched_build: TestBuild, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pyllama.builder", "build"),
            *("--pin", patched_build.pin, "--export", str(tmp_path / "out")),
        ],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert "\x1b" not in done.stderr  # no bars where nobody looks
    assert Path(done.stdout.strip()) == patched_build.folder


def test_what_a_build_holds(patched_build: TestBuild) -> None:
    info = json.loads((patched_build.folder / "build.json").read_text())
    assert {"pin", "commit", "tree", "key", "build_key", "features", "backends", "options"} <= set(info)
    assert info["options"]["GGML_BACKEND_DL"] == "ON" and info["options"]["GGML_NATIVE"] == "OFF"
    names = {p.name for p in patched_build.lib_dir.iterdir()}
    assert {*(f"lib{name}{SUFFIX}" for name in ("llama", "ggml", "ggml-base")), "libggml-cpu.so"} <= names
    headers = {p.name for p in patched_build.include_dirs[0].iterdir()}
    assert {"llama.h", "ggml.h", "gguf.h", "mtmd.h", "ggml-self-locating.h"} <= headers
    assert (patched_build.folder / "licenses" / "LICENSE-llama.cpp").read_text().startswith("MIT License")


def test_no_path_of_this_machine_is_in_the_binaries(patched_build: TestBuild) -> None:
    machine = [
        str(patched_build.tree).encode(),
        str(locate().cache).encode(),
        str(Path.home()).encode() + b"/",
    ]
    for library in [*patched_build.lib_dir.iterdir(), *(patched_build.folder / "python").glob("_pyllama*")]:
        data = library.read_bytes()
        assert not [path for path in machine if path in data], library.name

"""Feature metal-copy: the whole Metal plug-in of pin 2026-05, compiled here, on a device that is a stub.

The stub (metal_stubs/metal_stub.m) carries out what was committed only when somebody waits, keeps private
memory at addresses that nobody else knows, and counts.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from . import metal
from .conftest import Build, Compile, Run, plugins

pytestmark = pytest.mark.matrix

PRIVATE = {"GGML_METAL_SHARED_BUFFERS_DISABLE": "1"}
SHAPES = ("plain", "view", "viewview", "late")
N = 256  # bytes that are copied


@pytest.fixture(scope="module", autouse=True)
def _only_there(pin: str | None) -> None:
    if pin != metal.PIN:
        pytest.skip(f"the feature is for pin {metal.PIN}; the others have it from upstream")


@pytest.fixture(scope="module")
def plugin(patched_build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return metal.plugin(patched_build, tmp_path_factory.mktemp("metal"))


@pytest.fixture(scope="module")
def stock_plugin(stock_build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return metal.plugin(stock_build, tmp_path_factory.mktemp("metal-stock"))


def instrument(compile_native: Compile, build: Build, library: Path) -> Path:
    flags = [f"-I{metal.STUBS}", f"-Wl,-rpath,{library.parent}"]
    return compile_native(build, "metal_copy.cpp", flags=flags, extra_sources=[library])


@pytest.fixture(scope="module")
def program(compile_native: Compile, patched_build: Build, plugin: Path) -> Path:
    return instrument(compile_native, patched_build, plugin)


@pytest.fixture(scope="module")
def stock_program(compile_native: Compile, stock_build: Build, stock_plugin: Path) -> Path:
    return instrument(compile_native, stock_build, stock_plugin)


def report(done: Any) -> dict[str, int]:
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    assert counts.pop("violations") == 0
    return counts


def here(done: int, *, copies: int = 0, pending: int = 0) -> dict[str, int]:
    return {"done": done, "copies": copies, "bytes": copies * N, "pending": pending}


@pytest.mark.parametrize("embed", [0, 1], ids=["metallib", "embedded"])
def test_types(patched_build: Build, tmp_path: Path, embed: int) -> None:
    """Every file of Objective-C in the plug-in, ours among them, without a warning."""
    names = sorted(metal.sources(patched_build).glob("*.m"))
    assert "ggml-metal-copy.m" in [path.name for path in names]
    check = [*metal.objc(patched_build, tmp_path, "gnustep-2.0"), "-fsyntax-only"]
    for path in names:
        metal.run([*check, f"-DGGML_METAL_EMBED_LIBRARY={embed}", str(path)])


@pytest.mark.parametrize(
    "wrong",
    ["[encoder copyFromBuffer:nil]", "dst.metal = size", "cmd_buf = encoder"],
    ids=["message", "type", "protocol"],
)
def test_types_would_be_noticed(patched_build: Build, tmp_path: Path, wrong: str) -> None:
    source = (metal.sources(patched_build) / "ggml-metal-copy.m").read_text(encoding="utf-8")
    broken = tmp_path / "broken.m"
    broken.write_text(source.replace("[encoder endEncoding];", f"{wrong};"), encoding="utf-8")
    with pytest.raises(AssertionError, match="error:"):
        metal.run([*metal.objc(patched_build, tmp_path, "gnustep-2.0"), "-fsyntax-only", str(broken)])


@pytest.mark.parametrize("how", ["direct", "ggml"])
@pytest.mark.parametrize("shapes", list(itertools.product(SHAPES, SHAPES)), ids="-to-".join)
def test_private_memory(program: Path, run_native: Run, how: str, shapes: tuple[str, str]) -> None:
    """One blit, waited for; all around it stays as it was."""
    done = run_native(program, "copy", how, "default", shapes[0], "default", shapes[1], env=PRIVATE)
    assert report(done) == here(1, copies=1)


@pytest.mark.parametrize("how", ["direct", "ggml"])
@pytest.mark.parametrize("shapes", list(itertools.product(SHAPES, SHAPES)), ids="-to-".join)
def test_shared_memory(program: Path, run_native: Run, how: str, shapes: tuple[str, str]) -> None:
    """In place, and nothing for the device to do."""
    done = run_native(program, "copy", how, "default", shapes[0], "default", shapes[1])
    assert report(done) == here(1)


@pytest.mark.parametrize("shapes", list(itertools.product(SHAPES, SHAPES)), ids="-to-".join)
def test_between_shared_and_private(program: Path, run_native: Run, shapes: tuple[str, str]) -> None:
    for places in (("default", "mapped"), ("mapped", "default")):
        args = [arg for pair in zip(places, shapes, strict=True) for arg in pair]
        assert report(run_native(program, "copy", "direct", *args, env=PRIVATE)) == here(1, copies=1)


@pytest.mark.parametrize("env", [{}, PRIVATE], ids=["shared", "private"])
def test_stock_refuses(stock_program: Path, run_native: Run, env: dict[str, str]) -> None:
    """Without the feature: no copy from buffer to buffer, two through the host."""
    args = ("default", "plain", "default", "plain")
    assert report(run_native(stock_program, "copy", "direct", *args, env=env)) == here(0)
    assert report(run_native(stock_program, "copy", "ggml", *args, env=env)) == here(
        1, copies=2 if env else 0
    )


@pytest.mark.parametrize("env", [{}, PRIVATE], ids=["shared", "private"])
@pytest.mark.parametrize(
    "name", ["host", "multi", "other-device", "smaller", "no-buffer", "no-memory", "no-address"]
)
def test_refused(program: Path, run_native: Run, name: str, env: dict[str, str]) -> None:
    done = run_native(program, "refused", name, env={**env, "GGML_METAL_DEVICES": "2"})
    assert report(done) == here(0)


def test_refused_outside_of_any_metal_buffer(program: Path, run_native: Run) -> None:
    done = run_native(program, "refused", "outside", env=PRIVATE)
    assert report(done) == here(0)
    assert "buffer is nil" in done.stderr


@pytest.mark.parametrize("kind", ["command-buffer", "encoder", "error"])
def test_fault(program: Path, run_native: Run, kind: str) -> None:
    """A device that fails is named in the log; ggml then gets its bytes through the host."""
    reason = "stub error" if kind == "error" else "no command buffer or encoder"
    for how, expected in (("direct", here(0)), ("ggml", here(1, copies=2))):
        done = run_native(program, "fault", how, kind, env=PRIVATE)
        assert report(done) == expected
        assert f"copying {N} bytes failed, going through the host: {reason}" in done.stderr


@pytest.mark.parametrize(
    ("name", "private", "shared"),
    [
        ("zero", here(1), here(1)),
        ("overlap", here(0), here(1)),
        ("touching", {"done": 1, "copies": 1, "bytes": 128, "pending": 0}, here(1)),
        ("bytes", here(0), here(1)),
        ("remote", here(1, copies=1), here(1)),
    ],
)
def test_edges(
    program: Path, run_native: Run, name: str, private: dict[str, int], shared: dict[str, int]
) -> None:
    assert report(run_native(program, "edge", name, env=PRIVATE)) == private
    assert report(run_native(program, "edge", name)) == shared


def test_a_mapping_of_several_metal_buffers(program: Path, run_native: Run) -> None:
    done = run_native(program, "edge", "far", env={**PRIVATE, "METAL_STUB_MAX_BUFFER": "28672"})
    assert report(done) == here(1, copies=1)


def test_what_is_queued_comes_first(program: Path, run_native: Run) -> None:
    assert report(run_native(program, "edge", "queued", env=PRIVATE)) == here(1, copies=2)


@pytest.mark.parametrize("env", [{}, PRIVATE], ids=["shared", "private"])
def test_view_copy_reaches_metal(
    compile_native: Compile,
    patched_build: Build,
    plugin: Path,
    run_native: Run,
    env: dict[str, str],
) -> None:
    """The instrument of view-copy on this plug-in: views without buffers, blocking and asynchronous."""
    viewer = compile_native(patched_build, "view_copy.cpp", flags=["-DHAVE_RPC"])
    cpu = next(p for p in plugins(patched_build.lib_dir) if p.name.startswith("libggml-cpu"))
    done = run_native(viewer, "plugin", plugin, cpu, "127.0.0.1:1", env=env)
    assert done.returncode == 0, done.stderr
    tested = json.loads(done.stdout.splitlines()[-1])["tested"]
    assert len(tested) == 1 and all(count > 50 for count in tested.values()), tested

"""Logging, devices, what a process loads and when, and the identity of the build."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyllama
from pyllama.builder.paths import locate

USE = """
with pyllama.Model(MODEL) as model:
    pyllama.generate(model, "Hello", max_tokens=3, temperature=0)
"""


@pytest.mark.matrix
def test_quiet_by_default(child: Any) -> None:
    done = child(USE)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.matrix
def test_debug_lines_go_through_logging(child: Any) -> None:
    code = """
import logging
logging.basicConfig(level=logging.DEBUG, format="%(name)s|%(levelname)s|%(message)s")
"""
    lines = child(code + USE).stderr.splitlines()
    ours = [line.split("|", 2) for line in lines if line.startswith("pyllama|")]
    assert len(ours) > 50
    assert {level for _, level, _ in ours} >= {"INFO", "DEBUG"}
    assert any("general.architecture" in text for _, _, text in ours)
    assert not any("|" not in line for line in lines), "a line went past logging"


def test_level_filters(model: pyllama.Model, caplog: pytest.LogCaptureFixture) -> None:
    for level, some in ((logging.INFO, True), (logging.WARNING, False), (logging.CRITICAL, False)):
        caplog.clear()
        with caplog.at_level(level, logger="pyllama"):
            model.context(n_ctx=32).close()
        told = [record for record in caplog.records if record.levelno < logging.WARNING]
        assert bool(told) == some, level


def test_lines_are_whole(caplog: pytest.LogCaptureFixture, test_model: Path) -> None:
    with caplog.at_level(logging.DEBUG, logger="pyllama"):
        pyllama.Model(test_model, vocab_only=True).close()
    texts = [record.getMessage() for record in caplog.records]
    assert texts and not any("\n" in text for text in texts)
    assert all(text.strip() for text in texts)


@pytest.mark.matrix
def test_devices(child: Any) -> None:
    code = """
from dataclasses import asdict
print(json.dumps([asdict(device) for device in pyllama.devices()]))
"""
    found = json.loads(child(code).stdout)
    (cpu,) = [device for device in found if device["kind"] == "cpu"]
    assert set(cpu) == {"name", "description", "backend", "kind", "memory_free", "memory_total"}
    assert cpu["name"] == cpu["backend"] == "CPU" and cpu["description"]
    assert 0 < cpu["memory_free"] <= cpu["memory_total"]
    if hasattr(os, "sysconf"):
        real = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert abs(cpu["memory_total"] - real) < real / 10, "bytes, not something else"


@pytest.mark.matrix
def test_build_info(child: Any, patched_build: Any) -> None:
    code = """
from dataclasses import asdict
print(json.dumps(asdict(pyllama.build_info()), default=str))
"""
    found = json.loads(child(code).stdout)
    assert found["pin"] == patched_build.pin
    assert len(found["commit"]) == 40 and len(found["key"]) == 64
    assert {"view-copy", "self-locating"} <= set(found["features"])
    assert found["backends"] == ["cpu"] and Path(found["folder"]) == patched_build.folder


def _modules(child: Any, code: str) -> set[str]:
    done = child(f"{code}\nprint(json.dumps(sorted(sys.modules)))")
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_is_lazy(child: Any) -> None:
    heavy = {"numpy", "rich", "requests", "cffi", "_cffi_backend", "tomlkit", "pycparser"}
    found = _modules(child, "")
    assert "pyllama" in found
    assert not found & heavy
    assert not {name for name in found if name.startswith(("pyllama.native", "pyllama.builder"))}
    # Reading the build's description loads nothing native; using the model needs nothing of the builder.
    assert "_cffi_backend" not in _modules(child, "pyllama.build_info()")
    used = _modules(child, USE)
    assert "_cffi_backend" in used
    assert not used & (heavy - {"_cffi_backend"})
    assert not {name for name in used if name.startswith("pyllama.builder")}


def test_public_names(child: Any) -> None:
    code = """
for name in pyllama.__all__:
    assert getattr(pyllama, name) is not None and name in dir(pyllama), name
"""
    child(code)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = pyllama.no_such_name


def test_builder_works_where_nothing_is_built(tmp_path: Path) -> None:
    package = tmp_path / "pyllama"
    shutil.copytree(
        Path(pyllama.__file__).parent, package, ignore=shutil.ignore_patterns("_build", "__pycache__")
    )
    (tmp_path / "vendor").mkdir()
    shutil.copy(locate().pins, tmp_path / "vendor" / "pins.toml")
    env = {k: v for k, v in os.environ.items() if k != "PYLLAMA_BUILD"}
    env |= {"PYTHONPATH": str(tmp_path), "PYLLAMA_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "pyllama.builder", "pins", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [row["name"] for row in json.loads(done.stdout)] == ["2025-08", "2026-05", "2026-10"]
    assert done.stderr == ""


def test_an_interrupt_in_a_log_handler_is_not_lost(child: Any) -> None:
    code = """
import logging
class Interrupting(logging.Handler):
    def emit(self, record):
        raise KeyboardInterrupt
logging.getLogger("pyllama").addHandler(Interrupting())
logging.getLogger("pyllama").setLevel(logging.DEBUG)
try:
    pyllama.Model(MODEL)
    for _ in range(1000): pass
except KeyboardInterrupt:
    print("interrupted")
"""
    done = child(code)
    assert done.stdout == "interrupted\n", done.stderr

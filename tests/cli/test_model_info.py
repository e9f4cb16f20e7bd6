"""`pyllama info MODEL.gguf`: what is in a file, and what it would take, without loading it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
from real_builds import TestBuild
from tiny_adapters import write_control_vector

import pyllama
from pyllama import gguf_file
from pyllama.errors import ContextError, ModelError

pytestmark = pytest.mark.matrix


@pytest.fixture
def info(command_line: Any, patched_build: TestBuild) -> Callable[..., Any]:
    def run(*args: str | Path) -> Any:
        return command_line("info", *args, PYLLAMA_BUILD=str(patched_build.folder))

    return run


@pytest.mark.parametrize("kind", ["attention", "hybrid", "moe"])
def test_what_the_file_says(tiny_model: Callable[[str], Path], kind: str) -> None:
    path = tiny_model(kind)
    file, reader = gguf_file.read(path), gguf.GGUFReader(path)
    assert len(file.tensors) == len(reader.tensors)
    for mine, theirs in zip(file.tensors, reader.tensors, strict=True):
        assert mine.name == theirs.name
        assert mine.shape == tuple(map(int, theirs.shape))
        assert (mine.nbytes, mine.offset) == (int(theirs.n_bytes), int(theirs.data_offset))
        assert mine.type == theirs.tensor_type.name.lower()
    assert file.n_params == sum(int(tensor.n_elements) for tensor in reader.tensors)
    named = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert set(file.metadata) == set(named)
    for name, field in named.items():
        value, expected = file.metadata[name], field.contents()
        assert value == (pytest.approx(expected) if isinstance(expected, float) else expected), name
    with pyllama.Model(path) as model:
        assert (file.n_params, file.nbytes) == (model.n_params, model.size)


def test_the_estimate_is_what_is_allocated_then(tiny_model: Callable[[str], Path], test_model: Path) -> None:
    paths = [*(tiny_model(kind) for kind in ("attention", "swa", "mamba2", "hybrid")), test_model]
    for path in paths:
        for options in ({"n_ctx": 256}, {"n_ctx": 4096, "n_seq_max": 2, "n_ubatch": 64}):
            if pyllama.build_info().pin == "2025-08":
                with pytest.raises(ContextError, match="use pin 2026-05 or later"):
                    pyllama.estimate(path, **options)
                return
            guess = pyllama.estimate(path, **options)
            with pyllama.Model(path, mmap=False) as real, real.context(**options) as context:
                assert guess == context.memory()


def test_a_model_without_weights_computes_nothing(tiny_model: Callable[[str], Path]) -> None:
    if pyllama.build_info().pin == "2025-08":
        pytest.skip("2025-08 cannot plan without loading")
    # llama.cpp ends the process when it is to map the file as well, and when it is to compute.
    path = tiny_model("attention")
    with (
        pyllama.Model(path, no_alloc=True, mmap=True) as model,
        model.context(n_ctx=64) as context,
        pytest.raises(ContextError, match="without its weights"),
    ):
        context.decode([5])


def test_on_the_terminal(info: Callable[..., Any], tiny_model: Callable[[str], Path]) -> None:
    done = info(tiny_model("attention"), "--ctx", "512", "--tensors")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert any(line.split() == ["llama.context_length", "4096"] for line in lines)
    assert any(line.startswith("tokenizer.ggml.tokens") and line.endswith("(320)") for line in lines)
    assert any(line.split()[:2] == ["blk.0.attn_q.weight", "f32"] for line in lines if line)
    assert max(map(len, lines)) < 130
    (head,) = (i for i, line in enumerate(lines) if line.startswith("memory"))
    if pyllama.build_info().pin == "2025-08":
        assert "2026-05 or later" in lines[head + 1]
    else:
        assert lines[head + 1].startswith("CPU") and "KiB" in lines[head + 1]


def test_json(info: Callable[..., Any], tiny_model: Callable[[str], Path]) -> None:
    path = tiny_model("moe")
    small, large = (json.loads(info(path, "--ctx", n, "--json").stdout) for n in ("512", "1024"))
    assert small["metadata"]["llama.expert_count"] == 8 and len(small["tensors"]) > 10
    assert small["parameters"] == gguf_file.read(path).n_params
    if pyllama.build_info().pin == "2025-08":
        assert small["memory"] is None
        return
    kv = [sum(row["context"] for row in table["memory"]) for table in (small, large)]
    assert kv[1] == 2 * kv[0] > 0


def test_a_file_that_is_no_model(info: Callable[..., Any], tiny_model: Any, tmp_path: Path) -> None:
    row = numpy.ones(128, numpy.float32)
    file = write_control_vector(tmp_path / "v.gguf", {"direction.1": row})
    done = info(file)
    assert done.returncode == 0 and "controlvector" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("not known: ")


def test_wrong_usage(info: Callable[..., Any], tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    path = tiny_model("attention")
    for args in (("--ctx", "5"), ("--tensors",), (path, "--cflags"), (path, "-o", tmp_path / "x")):
        done = info(*args)
        assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1, args
    (tmp_path / "text.gguf").write_text("hello")
    for args in (
        (tmp_path / "text.gguf",),
        (tmp_path / "missing.gguf",),
        (path, "--ctx", "-1"),
    ):
        done = info(*args)
        assert (done.returncode, done.stdout) in ((1, ""), (2, "")), args
        assert len(done.stderr.splitlines()) == 1
    if pyllama.build_info().pin != "2025-08":
        done = info(path, "--device", "nothing")
        assert done.returncode == 2 and "no device 'nothing'" in done.stderr


def test_damaged_files(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    data = tiny_model("attention").read_bytes()
    for n in (4, 10, 24, 100, 1000, 5000):
        (tmp_path / "cut.gguf").write_bytes(data[:n])
        with pytest.raises(ModelError, match=r"cut\.gguf"):
            gguf_file.read(tmp_path / "cut.gguf")

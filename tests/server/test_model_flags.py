"""`--n-layer-exit`, `--n-layer-exit-draft` and `--moe-n-expert` of upstream's programs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import arch_models
import pytest
from completion import program_of, run
from llama_server import serving

import pyllama

pytestmark = [pytest.mark.matrix, pytest.mark.server]

Complete = Callable[..., bytes]
PROMPT_TOKENS = [1, *range(100, 120)]


def load(path: Path) -> str:
    """Say what is wrong with a file."""
    try:
        pyllama.Model(path).close()
    except pyllama.Error as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def program(pin: str | None) -> Path:
    """Upstream's program that completes a prompt."""
    return program_of(pin)


@pytest.fixture
def complete(program: Path) -> Complete:
    """`complete(model, *flags)` is what it writes; with `check=False`, what it says where it fails."""

    def finish(model: Path, *flags: str, check: bool = True, **env: str) -> bytes:
        done = run(program, model, "-c", "128", *flags, **env)
        assert (done.returncode == 0) == check, done.stderr[-2000:]
        return done.stdout if check else done.stderr

    return finish


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> arch_models.ArchModel:
    return arch_models.learn("llama", tmp_path_factory.mktemp("learn"), load)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> arch_models.ArchModel:
    return arch_models.learn("qwen3moe", tmp_path_factory.mktemp("learn"), load)


def test_layers(complete: Complete, dense: arch_models.ArchModel, tmp_path: Path) -> None:
    whole, cut = dense.write(tmp_path / "whole.gguf"), dense.cut(2).write(tmp_path / "cut.gguf")
    all_of_them, two = complete(whole), complete(cut)
    assert all_of_them != two
    assert complete(whole, "--n-layer-exit", "2") == two
    assert complete(whole, LLAMA_ARG_N_LAYER_EXIT="2") == two
    assert complete(whole, "--n-layer-exit", "0") == all_of_them
    for n in ("5", "-1"):
        said = complete(whole, "--n-layer-exit", n, check=False)
        assert f"the model has 4 layers, it cannot stop after {n}".encode() in said


def test_experts(complete: Complete, mixture: arch_models.ArchModel, tmp_path: Path) -> None:
    whole, less = mixture.write(tmp_path / "whole.gguf"), mixture.taking(1).write(tmp_path / "less.gguf")
    all_of_them, one = complete(whole), complete(less)
    assert all_of_them != one
    assert complete(whole, "--moe-n-expert", "1") == one
    assert complete(whole, "--moe-n-expert", "0") == all_of_them
    for n in ("5", "-1"):
        assert b"1 to 4" in complete(whole, "--moe-n-expert", n, check=False)


def test_both(complete: Complete, mixture: arch_models.ArchModel, tmp_path: Path) -> None:
    whole = mixture.write(tmp_path / "whole.gguf")
    less = mixture.cut(3).taking(2).write(tmp_path / "less.gguf")
    assert complete(whole, "--n-layer-exit", "3", "--moe-n-expert", "2") == complete(less)


def test_a_model_drafts_for_itself(llama_server: Path, dense: arch_models.ArchModel, tmp_path: Path) -> None:
    """The same text as without a draft, and a draft with all layers is right more often than one with two.

    Not always: the draft knows nothing of the tokens that requests of these tests forbid.
    """
    model = dense.write(tmp_path / "m.gguf")
    words = ["-m", model, "-c", "512", "-t", "1", "-np", "1", "-ctk", "f32", "-ctv", "f32"]
    drafting = ["-md", model, "-ctkd", "f32", "-ctvd", "f32", "--draft-p-min", "0"]
    if pyllama.build_info().pin == "2026-10":
        drafting += ["--spec-type", "draft-simple"]
    texts, right = set(), {}
    for name, flags in {
        "none": [],
        "all": [*drafting],
        "two": [*drafting, "--n-layer-exit-draft", "2"],
    }.items():
        with serving(llama_server, tmp_path / f"{name}.log", *words, *flags) as server:
            answer = server.ask(PROMPT_TOKENS, 56, cache_prompt=True)  # 2025-08 drafts with it only
        texts.add(tuple(answer["tokens"][:48]))
        timings = answer["timings"]
        right[name] = timings.get("draft_n_accepted", 0) / timings.get("draft_n", 1)
    assert len(texts) == 1
    assert right["none"] == 0
    assert right["all"] > 2 * right["two"] > 0


def test_a_draft_that_cannot_stop_there(
    llama_server: Path, dense: arch_models.ArchModel, tmp_path: Path
) -> None:
    model, log = dense.write(tmp_path / "m.gguf"), tmp_path / "server.log"
    words = ["-m", model, "-md", model, "-c", "512", "--n-layer-exit-draft", "9"]
    if pyllama.build_info().pin == "2026-05":  # it goes on without a draft
        with serving(llama_server, log, *words) as server:
            assert "draft_n" not in server.ask(PROMPT_TOKENS, 8)["timings"]
    else:
        with log.open("wb") as out:
            command = [llama_server, *words, "--port", "0"]
            code = subprocess.run(command, stdout=out, stderr=out, timeout=120, check=False).returncode
        assert code != 0
    assert "the model has 4 layers, it cannot stop after 9" in log.read_text(errors="replace")

"""Feature lookahead: llama-lookahead and llama-lookup run as they are; ours at 2025-08, upstream's later."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from native.conftest import Run
from native.conftest import run_native as run_native
from real_builds import TestBuild, make_build

pytestmark = [pytest.mark.matrix, pytest.mark.server]

PROGRAMS = ("llama-lookahead", "llama-lookup")
PROMPT = "one two three four one two three four one two three four one two"
N = 24


@pytest.fixture(scope="session")
def ours(pin: str | None) -> TestBuild:
    """The pin with every feature and both programs."""
    return make_build(pin, "all", *PROGRAMS)


@pytest.fixture(scope="session")
def stock(pin: str | None) -> TestBuild:
    """The same without any feature, where the defects are."""
    if pin != "2025-08":
        pytest.skip("upstream has it: the programs above are upstream's own")
    return make_build(pin, "none", *PROGRAMS)


def start(run: Run, build: TestBuild, program: str, model: Path, *args: object) -> Any:
    """Run it without a choice of tokens."""
    words = ["-m", model, "-p", PROMPT, "-n", N, "--temp", 0, "-t", 2, "-ngl", 0, *args]
    return run(build.folder / "bin" / program, *words)


def written(done: Any) -> str:
    """What the model wrote, without colours and what llama-lookup says of drafts in between."""
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    said = re.sub(r"\x1b\[[0-9;]*m| - draft candidate: token=-?\d+\n", "", done.stdout)
    assert PROMPT in said, said
    text: str = said.split(PROMPT, 1)[1]
    return text.lstrip("\n")


def counted(done: Any, name: str) -> int:
    found = re.search(rf"{name} *= *(\d+)", done.stdout + done.stderr)
    assert found, done.stdout + done.stderr
    return int(found[1])


# 0: as many as the model was trained for, which the programs took for no tokens at all
@pytest.mark.parametrize("n_ctx", [512, 0])
@pytest.mark.parametrize("program", PROGRAMS)
def test_it_runs(run_native: Run, ours: TestBuild, test_model: Path, program: str, n_ctx: int) -> None:
    """With nothing but a model and a prompt; the text goes on as it began."""
    done = start(run_native, ours, program, test_model, "-c", n_ctx)
    assert written(done).startswith(" three four one two three four")
    assert counted(done, "n_predict") > N
    if program == "llama-lookup":  # the other one needs longer to see something again
        assert counted(done, "n_accept") > 0


def test_both_write_the_same(run_native: Run, ours: TestBuild, test_model: Path) -> None:
    """What the model itself would choose, since nothing else is accepted."""
    texts = [written(start(run_native, ours, program, test_model, "-c", 512)) for program in PROGRAMS]
    length = min(len(text.split("\n\n")[0]) for text in texts)
    assert length > 60 and texts[0][:length] == texts[1][:length]


def test_stock_lookahead_has_one_sequence(run_native: Run, stock: TestBuild, test_model: Path) -> None:
    done = start(run_native, stock, "llama-lookahead", test_model, "-c", 512)
    assert done.returncode == 1 and "invalid seq_id" in done.stderr, done.stderr[-2000:]


@pytest.mark.parametrize("program", PROGRAMS)
def test_stock_has_a_batch_of_nothing(
    run_native: Run, stock: TestBuild, test_model: Path, program: str
) -> None:
    several = ["-np", 31, "-kvu"] if program == "llama-lookahead" else []
    done = start(run_native, stock, program, test_model, "-c", 0, *several)
    assert done.returncode == -signal.SIGABRT and "llama_batch size exceeded" in done.stderr

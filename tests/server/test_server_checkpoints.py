"""llama-server keeps the checkpoints of speculative decoding on the device, and says what they cost."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import gguf
import numpy
import pytest
from llama_server import LlamaServer, Tokens, serving
from native.loopback import RemoteLoopback
from real_builds import TestBuild
from tiny_models import TinyModels

pytestmark = [pytest.mark.matrix, pytest.mark.server]

Start = Callable[..., AbstractContextManager[LlamaServer]]

# Requests share batches: what is added up in another order must not be rounded to another cache entry.
EXACT = ["-c", "4096", "-ctk", "f32", "-ctv", "f32", "-t", "1", "--fit", "off", "--cache-ram", "0"]
NGRAMS = ["--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "1", "--spec-ngram-simple-size-m", "3"]
OFF = "--no-spec-ckpt-on-device"
ON_LOOPBACK = ["--device", "Loopback0", "-ngl", "99"]
TOKENS = 48
LINE = re.compile(
    r"spec checkpoints: save = (\S+) ms / (\d+) \((\d+) in host memory\), "
    r"restore = (\S+) ms / (\d+), seq_rm = (\S+) ms / (\d+), size = (\S+) MiB"
)


def prompts(n: int) -> list[list[int]]:
    """Prompts that repeat themselves, so that n-grams are found in them."""
    rng = random.Random(11)
    return [rng.choices(range(3, 320), k=rng.randint(4, 12)) * 5 for _ in range(n)]


@pytest.fixture(autouse=True)
def _has_it(pin: str | None) -> None:
    if pin == "2025-08":
        pytest.skip("the server of 2025-08 takes no checkpoints for speculative decoding")


@pytest.fixture
def start(llama_server: Path, tmp_path: Path) -> Start:
    """``start(model, *args)`` runs the server with one slot, unless the arguments say otherwise."""
    n = 0

    def run(model: Path, *args: str | Path, **options: object) -> AbstractContextManager[LlamaServer]:
        nonlocal n
        n += 1
        words = ["-m", model, *EXACT, *([] if "-np" in args else ["-np", "1"]), *args]
        return serving(llama_server, tmp_path / f"server-{n}.log", *words, **options)  # type: ignore[arg-type]

    return run


def one_by_one(server: LlamaServer, n: int = 3) -> list[Tokens]:
    """What follows the prompts, asked for one at a time."""
    return [server.complete(prompt, TOKENS) for prompt in prompts(n)]


def follows(found: list[Tokens], certain: list[Tokens]) -> bool:
    """Whether each answer begins with what is certain of it, and whether that is most of it."""
    whole = [tokens[: len(sure)] for tokens, sure in zip(found, certain, strict=True)]
    return whole == certain and sum(map(len, certain)) > TOKENS * len(found) / 2


@pytest.fixture
def drafted(server_build: TestBuild, tmp_path: Path) -> Callable[[Path], list[str | Path]]:
    """``drafted(model)``: options for a draft model that is like it, but is often wrong.

    It needs checkpoints of its own, as the model does.
    """

    def options(model: Path) -> list[str | Path]:
        draft = tmp_path / f"draft-{model.name}"
        shutil.copy(model, draft)
        rng = numpy.random.default_rng(5)
        for tensor in gguf.GGUFReader(draft, "r+").tensors:
            weights = tensor.data  # of the file
            weights *= rng.normal(1, 0.03, weights.shape).astype(weights.dtype)
        kind = ["--spec-type", "draft-simple"] if server_build.pin == "2026-10" else []
        return [*kind, "-md", draft, "--spec-draft-n-max", "3", "-ctkd", "f32", "-ctvd", "f32"]

    return options


@pytest.mark.parametrize("spec", ["ngrams", "draft"])
@pytest.mark.parametrize("kind", ["mamba2", "rwkv7", "hybrid", "delta", "rollback"])
def test_same_tokens_with_and_without(
    start: Start, tiny_model: TinyModels, drafted: Callable[[Path], list[str | Path]], kind: str, spec: str
) -> None:
    model = tiny_model(kind)
    how = NGRAMS if spec == "ngrams" else drafted(model)
    with start(model) as server:
        certain = [server.certain(prompt, TOKENS) for prompt in prompts(3)]
    with start(model, *how) as server:
        found, on = one_by_one(server), server.metrics()
    with start(model, *how, OFF) as server:
        assert one_by_one(server) == found
        off = server.metrics()
    assert follows(found, certain)
    if "spec_decode_num_accepted_tokens_total" in on:  # 2026-05 does not count them
        right = on["spec_decode_num_accepted_tokens_total"]
        assert (spec == "ngrams" or right > 0) and right < on["spec_decode_num_draft_tokens_total"]
    for name in ("save", "restore", "seq_rm"):
        assert on[f"spec_ckpt_{name}_total"] == off[f"spec_ckpt_{name}_total"] > 0
        assert on[f"spec_ckpt_{name}_seconds_total"] > 0
    assert on["spec_ckpt_host_total"] == 0
    assert off["spec_ckpt_host_total"] == off["spec_ckpt_save_total"]


def test_nothing_is_saved_where_tokens_can_be_removed(start: Start, tiny_model: TinyModels) -> None:
    with start(tiny_model("attention"), *NGRAMS) as server:
        one_by_one(server)
        metrics = server.metrics()
    assert metrics["spec_ckpt_save_total"] == metrics["spec_ckpt_restore_total"] == 0
    assert not LINE.search(server.log.read_text())


def test_the_environment_switches_it_off(start: Start, tiny_model: TinyModels) -> None:
    with start(tiny_model("mamba2"), *NGRAMS, env={"LLAMA_ARG_SPEC_CKPT_ON_DEVICE": "0"}) as server:
        one_by_one(server, 1)
        metrics = server.metrics()
    assert metrics["spec_ckpt_host_total"] == metrics["spec_ckpt_save_total"] > 0


def test_log_says_what_the_metrics_say(start: Start, tiny_model: TinyModels) -> None:
    with start(tiny_model("hybrid"), *NGRAMS) as server:
        one_by_one(server)
        metrics = server.metrics()
    lines = LINE.findall(server.log.read_text())
    assert len(lines) == 3
    total = [sum(float(line[i]) for line in lines) for i in range(8)]
    assert total[1] == metrics["spec_ckpt_save_total"]
    assert total[2] == metrics["spec_ckpt_host_total"] == 0
    assert total[4] == metrics["spec_ckpt_restore_total"]
    assert total[6] == metrics["spec_ckpt_seq_rm_total"]
    assert total[7] > 0
    for name, at in (("save", 0), ("restore", 3), ("seq_rm", 5)):
        assert total[at] == pytest.approx(1e3 * metrics[f"spec_ckpt_{name}_seconds_total"], abs=0.02)


@pytest.mark.parametrize("kind", ["mamba2", "hybrid"])
def test_many_requests_on_several_slots(start: Start, tiny_model: TinyModels, kind: str) -> None:
    many = prompts(24)
    with start(tiny_model(kind), "-np", "6", *NGRAMS) as server:
        found = server.complete_all(many, TOKENS, at_once=12)
        metrics = server.metrics()
    with start(tiny_model(kind)) as server:
        certain = [server.certain(prompt, TOKENS) for prompt in many]
    assert follows(found, certain)
    assert metrics["spec_ckpt_save_total"] > 24 and metrics["spec_ckpt_restore_total"] > 24
    assert metrics["spec_ckpt_host_total"] == 0
    assert metrics["spec_ckpt_device_bytes"] == metrics["spec_ckpt_host_bytes"] == 0


@pytest.fixture
def remote(loopback_plugin: Path, tmp_path: Path) -> RemoteLoopback:
    """The device of a server that is started with ``env=remote.env``."""
    return RemoteLoopback(loopback_plugin, tmp_path / "loopback")


def test_on_the_device_nothing_crosses(start: Start, tiny_model: TinyModels, remote: RemoteLoopback) -> None:
    crossed = []
    for switch in ([], [OFF]):
        with start(tiny_model("mamba2"), *ON_LOOPBACK, *NGRAMS, *switch, env=remote.env) as server:
            server.complete(prompts(1)[0], TOKENS)  # what is allocated once
            saved = server.metrics()["spec_ckpt_save_total"]
            before = remote.stats()
            found = one_by_one(server)
            saved = server.metrics()["spec_ckpt_save_total"] - saved
            after = remote.stats()
        size = float(LINE.findall(server.log.read_text())[-1][7]) * 2**20
        crossed.append((found, after.bytes_to_host - before.bytes_to_host))
        if not switch:
            assert saved > 15 and after.allocs - before.allocs == 3  # one for each request
            assert after.live_bytes == before.live_bytes
    (tokens, on), (expected, off) = crossed
    assert tokens == expected
    assert off - on == pytest.approx(saved * size, rel=0.01)


def test_a_device_that_refuses_memory(start: Start, tiny_model: TinyModels, remote: RemoteLoopback) -> None:
    many = prompts(12)
    with start(tiny_model("hybrid")) as server:
        certain = [server.certain(prompt, TOKENS) for prompt in many]
    with start(tiny_model("hybrid"), "-np", "3", *ON_LOOPBACK, *NGRAMS, env=remote.env) as server:
        assert follows(server.complete_all(many, TOKENS, at_once=6), certain)
        before, idle = server.metrics(), remote.stats()
        assert before["spec_ckpt_save_total"] > 0 and before["spec_ckpt_host_total"] == 0

        remote.set(alloc_limit=idle.live_bytes)
        assert follows(server.complete_all(many, TOKENS, at_once=6), certain)
        refused, full = server.metrics(), remote.stats()
        saved = refused["spec_ckpt_save_total"] - before["spec_ckpt_save_total"]
        assert refused["spec_ckpt_host_total"] == saved > 0
        assert refused["spec_ckpt_host_bytes"] == 0
        assert 0 < full.allocs_failed - idle.allocs_failed <= len(many)  # not asked at every cycle
        assert full.live_bytes == idle.live_bytes

        remote.set(alloc_limit=2**63)
        assert follows(server.complete_all(many, TOKENS, at_once=6), certain)
        after = server.metrics()
        assert after["spec_ckpt_save_total"] > refused["spec_ckpt_save_total"]
        assert after["spec_ckpt_host_total"] == refused["spec_ckpt_host_total"]
        assert remote.stats().live_bytes == idle.live_bytes
    assert "the state goes to host memory" in server.log.read_text()

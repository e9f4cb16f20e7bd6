"""Every backend that this machine can build, beside the CPU: built, loaded, computing, and with each feature.

What was seen goes to `build/matrix/<pin>.json`; `nox -s matrix` makes docs/matrix.md of it.
"""

from __future__ import annotations

import json
import math
import os
import socket
from array import array
from pathlib import Path
from typing import Any

import pytest
from exact_model import write_f32
from real_builds import TestBuild
from rpc_servers import servers

from pyllama.builder.compile import backends
from pyllama.builder.finished import read

from . import expected
from .conftest import Compile, Run
from .machine import Notes

pytestmark = pytest.mark.backends

TOKENS = 64
# Long enough for a batch that BLAS takes; the model then repeats itself with small margins.
PROMPT = (
    "The history of the city begins long before the first walls were built. Fishermen lived on the northern "
    "bank of the river, and traders came down from the hills with salt, wool and copper. In the year of the "
    "great flood"
)
# Root mean square distance of the logits of a step, in standard deviations, and the lead of the CPU's token
# where another one wins. With 32-bit weights all backends compute the same up to the order of additions and
# 16-bit products of Vulkan. With Q4_1 weights the CPU rounds activations to 8 bits, and the others do not:
# that is an error of the CPU, and a model that repeats itself has close calls.
EXACT = (0.02, 0.05)
QUANTISED = (0.25, 0.5)
LOGITS = """
from array import array
from pyllama import ffi, lib
_, path, devices, prompt, forced, out = sys.argv
model = pyllama.Model(path, devices=json.loads(devices))
context = model.context(n_ctx=256, threads=2)
size = len(model.vocab)
context.decode(model.tokenize(prompt))
chosen, forced = [], json.loads(forced)
with open(out, "wb") as file:
    for i in range(64):
        row = array("f", ffi.buffer(lib.llama_get_logits_ith(context.ptr, -1), 4 * size)[:])
        file.write(row)
        chosen.append(max(range(size), key=row.__getitem__))
        context.decode([forced[i] if forced else chosen[-1]])
print(json.dumps(chosen))
"""
KILLED = """
import os, signal
from pyllama import rpc
model = pyllama.Model(MODEL, devices=[device.name for device in rpc.connect(sys.argv[1])])
context = model.context(n_ctx=64)
context.decode(model.tokenize("Once upon a time"))
os.kill(int(sys.argv[2]), signal.SIGKILL)
try:
    for _ in range(8):
        context.decode([1])
    print("nothing happened")
except pyllama.Error as error:
    print(type(error).__name__, error)
context.close()
model.close()
"""
LOCAL = [row for row in backends.table().values() if row.kind in ("gpu", "accel")]
OTHERS = [row for row in backends.table().values() if row.kind != "cpu"]
EXPECTED = expected.named(os.environ, backends.table())


@pytest.fixture(scope="session")
def models(test_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model as it is, and the same weights as 32-bit floats."""
    exact = write_f32(test_model, tmp_path_factory.mktemp("exact") / "f32.gguf")
    return {"F32": exact, "Q4_1": test_model}


@pytest.fixture(scope="session")
def reference(
    child: Any, environment: dict[str, str], models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The CPU's tokens and logits with each file."""
    found = {}
    for weights, model in models.items():
        out = tmp_path_factory.mktemp("reference") / "logits"
        env = {**environment, "PYLLAMA_BACKENDS": "cpu"}
        done = child(LOGITS, model, '["CPU"]', PROMPT, "null", out, **env)
        found[weights] = json.loads(done.stdout), _rows(out)
    return found


@pytest.mark.parametrize("row", backends.table().values(), ids=lambda row: row.name)
def test_what_is_built_loads(
    row: backends.Backend,
    lacking: dict[str, str],
    states: dict[str, Any],
    machine_build: TestBuild,
    notes: Notes,
) -> None:
    state = states[row.name]
    fault = expected.fault(row, lacking.get(row.name, ""), state["state"], EXPECTED)
    assert fault is None, f"{fault}; {state['advice']}"
    if row.name in lacking:
        notes[row.name]["built"] = lacking[row.name]
        pytest.skip(f"{row.name}: {lacking[row.name]}")
    notes[row.name]["built"] = "yes"
    notes[row.name]["devices"] = ", ".join(state["devices"]) or "none here"
    if row.kind == "cpu":
        notes[row.name].update({"tokens, F32": "the reference", "tokens, Q4_1": "the reference"})
        notes[row.name]["variant"] = read(machine_build.folder)["cpu"]


@pytest.mark.parametrize("weights", ["F32", "Q4_1"])
@pytest.mark.parametrize("row", LOCAL, ids=lambda row: row.name)
def test_it_computes_what_the_cpu_computes(
    row: backends.Backend,
    weights: str,
    states: dict[str, Any],
    reference: dict[str, Any],
    models: dict[str, Path],
    child: Any,
    environment: dict[str, str],
    tmp_path: Path,
    notes: Notes,
) -> None:
    """64 greedy tokens: the backend reads the CPU's, and at each step the likeliest next one is compared."""
    state = states[row.name]
    if state["state"] != "used":
        pytest.skip(f"{row.name} is {state['state']} here: {state['advice']}")
    devices = json.dumps(list(state["devices"]) if row.kind == "gpu" else None)
    env = {**environment, "PYLLAMA_BACKENDS": row.name}
    forced = json.dumps(reference[weights][0])
    done = child(LOGITS, models[weights], devices, PROMPT, forced, tmp_path / "logits", **env)
    told = agree(reference[weights], json.loads(done.stdout), tmp_path / "logits", weights)
    notes[row.name][f"tokens, {weights}"] = told


@pytest.mark.parametrize("weights", ["F32", "Q4_1"])
@pytest.mark.parametrize("count", [1, 2])
def test_servers(
    count: int,
    weights: str,
    states: dict[str, Any],
    reference: dict[str, Any],
    models: dict[str, Path],
    child: Any,
    environment: dict[str, str],
    machine_build: TestBuild,
    tmp_path: Path,
    notes: Notes,
) -> None:
    """The model on one server's device, and split over those of two."""
    if states["rpc"]["state"] not in ("used", "no device"):
        pytest.skip(states["rpc"]["advice"])
    code = LOGITS.replace(
        "devices=json.loads(devices)",
        "devices=[d.name for d in pyllama.rpc.connect(*json.loads(devices))]",
    ).replace("import ffi, lib", "import ffi, lib, rpc")
    env = {**environment, "PYLLAMA_BACKENDS": "rpc"}
    forced = json.dumps(reference[weights][0])
    with servers(machine_build, count) as running:
        endpoints = json.dumps([server.endpoint for server in running])
        done = child(code, models[weights], endpoints, PROMPT, forced, tmp_path / "logits", **env)
    told = agree(reference[weights], json.loads(done.stdout), tmp_path / "logits", weights)
    column = f"tokens, {weights}"
    others = [notes["rpc"][column]] if column in notes["rpc"] else []
    notes["rpc"][column] = "; ".join([*others, f"{count} server{'s' * (count > 1)}: {told}"])


def test_rpc_errors(
    states: dict[str, Any],
    test_model: Path,
    child: Any,
    environment: dict[str, str],
    machine_build: TestBuild,
    notes: Notes,
) -> None:
    """A server that is killed is an exception, and the process goes on."""
    if states["rpc"]["state"] not in ("used", "no device"):
        pytest.skip(states["rpc"]["advice"])
    env = {**environment, "PYLLAMA_BACKENDS": "rpc"}
    with servers(machine_build, 1) as (server,):
        done = child(KILLED, server.endpoint, str(server.process.pid), **env)
    kind, _, rest = done.stdout.partition(" ")
    assert kind in ("RpcError", "DecodeError") and server.endpoint in rest, done.stdout
    notes["rpc"]["rpc-errors"] = "killed server: exception"


def agree(reference: Any, chosen: list[int], logits: Path, weights: str) -> str:
    """Check a backend's choices and logits against the CPU's, and say how well they agree."""
    tokens, expected = reference
    found = _rows(logits)
    assert len(chosen) == len(expected) == len(found) == TOKENS
    noise_limit, margin_limit = EXACT if weights == "F32" else QUANTISED
    off = [i for i in range(TOKENS) if chosen[i] != tokens[i]]
    margins = [expected[i][tokens[i]] - expected[i][chosen[i]] for i in off]
    noise = max(_distance(a, b) for a, b in zip(expected, found, strict=True))
    assert noise < noise_limit, f"the logits differ by {noise:.4f} of their standard deviation"
    assert all(margin < margin_limit for margin in margins), list(zip(off, margins, strict=True))
    told = f"{TOKENS - len(off)} of {TOKENS}; noise {noise:.4f}"
    return f"{told}; another token at {off[0]}, the CPU's lead is {margins[0]:.2f}" if off else told


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.name)
def test_view_copy(
    row: backends.Backend,
    compile_native: Compile,
    machine_build: TestBuild,
    run_native: Run,
    lacking: dict[str, str],
    notes: Notes,
) -> None:
    """Copies through every buffer type of every device of the plug-in, from and to views."""
    if row.name in lacking:
        pytest.skip(f"{row.name}: {lacking[row.name]}")
    program = compile_native(machine_build, "view_copy.cpp", flags=["-DHAVE_RPC"])
    plugin = machine_build.lib_dir / f"libggml-{row.name}.so"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cpu = machine_build.lib_dir / "libggml-cpu.so"
    env = {**os.environ, "GGML_VK_VISIBLE_DEVICES": "0"}
    done = run_native(program, "plugin", plugin, cpu, f"127.0.0.1:{port}", env=env)
    assert done.returncode == 0, done.stderr
    result = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    tested = sum(result["tested"].values())
    notes[row.name]["view-copy"] = f"{tested} copies" if tested else "no device here"
    wanted = row.name in EXPECTED or row.device == expected.ALWAYS
    assert tested or not (wanted or result["tested"])


def test_self_locating(
    compile_native: Compile, machine_build: TestBuild, run_native: Run, tmp_path: Path, notes: Notes
) -> None:
    """A program that loads nothing itself finds each plug-in beside the library."""
    program = compile_native(machine_build, "self_locating.c", libs=("llama", "ggml", "ggml-base"))
    env = {**os.environ, "GGML_VK_VISIBLE_DEVICES": "0"}
    done = run_native(program, "init", "report", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    mapped = {
        Path(line.split(" ", 1)[1]).name for line in done.stdout.splitlines() if line.startswith("plugin ")
    }
    built = json.loads((machine_build.folder / "build.json").read_text())["backends"]
    for name in built:
        assert f"libggml-{name}.so" in mapped, (name, mapped)
        notes[name]["self-locating"] = "found"


def _rows(path: Path) -> list[array[float]]:
    data = array("f", path.read_bytes())
    size = len(data) // TOKENS
    return [data[i * size : (i + 1) * size] for i in range(TOKENS)]


def _distance(a: array[float], b: array[float]) -> float:
    """Return how far apart two rows of logits are: root mean square, in standard deviations of the first."""
    mean = sum(a) / len(a)
    spread = math.sqrt(sum((x - mean) ** 2 for x in a) / len(a))
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)) / spread

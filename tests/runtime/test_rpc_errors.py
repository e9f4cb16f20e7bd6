"""Feature rpc-errors: a server that dies, hangs up or talks nonsense is an exception; the process lives."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from real_builds import TestBuild
from rpc_servers import COMMANDS, FaultyProxy, listening, rpc_build_of, run_python, servers

pytestmark = pytest.mark.matrix

Child = Callable[..., "subprocess.CompletedProcess[str]"]

# Loads, reads a prompt and generates; the server is killed on the way. Then everything is freed.
_VICTIM = """
import os, signal, threading
endpoint, pid, when = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def kill():
    os.kill(pid, signal.SIGKILL)
told = {"done": []}
killed = False
def progress(fraction):
    global killed
    if when == "load" and fraction > 0.5 and not killed:
        killed = True
        kill()
model = context = None
try:
    devices = [d.name for d in pyllama.rpc.connect(endpoint)]
    model = pyllama.Model(MODEL, devices=devices, progress=progress)
    told["done"].append("load")
    context = model.context(n_ctx=4096, n_batch=4096, n_ubatch=16)
    told["done"].append("context")
    if when == "prompt":
        threading.Timer(0.3, kill).start()
        context.decode([5] * 4000)
    elif when == "generate":
        for i, piece in enumerate(pyllama.stream(context, "Once upon a time", max_tokens=64, temperature=0)):
            if i == 5:
                kill()
    else:
        context.decode([1, 2, 3])
    told["done"].append("decode")
except pyllama.Error as error:
    told["error"] = [type(error).__name__, str(error)]
if context is not None:
    again = []
    for call in (lambda: context.decode([1]), lambda: model.context(n_ctx=64)):
        try:
            call()
        except pyllama.Error as error:
            again.append(type(error).__name__)
    told["again"] = again
    context.close()
if model is not None:
    model.close()
if len(sys.argv) > 4:  # another server, in the same process
    devices = [d.name for d in pyllama.rpc.connect(sys.argv[4])]
    with pyllama.Model(MODEL, devices=devices) as fresh:
        told["fresh"] = pyllama.generate(fresh, "The capital of France is", max_tokens=4, temperature=0).text
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def rpc_build(pin: str | None) -> TestBuild:
    return rpc_build_of(pin)


@pytest.fixture(scope="module")
def child(rpc_build: TestBuild, test_model: Path) -> Child:
    """Not that of conftest.py, whose build has no rpc."""
    return partial(run_python, rpc_build, test_model)


@pytest.fixture(scope="module")
def stock_rpc_build(pin: str | None) -> TestBuild:
    return rpc_build_of(pin, "none")


def told(done: Any) -> dict[str, Any]:
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("when", ["load", "prompt", "generate"])
def test_stock_ends_the_process(when: str, child: Child, stock_rpc_build: TestBuild) -> None:
    with servers(stock_rpc_build, 1, "--threads", "1") as (server,):
        done = child(
            *(_VICTIM, server.endpoint, str(server.pid), when),
            PYLLAMA_BUILD=str(stock_rpc_build.folder),
        )
    assert done.returncode == -signal.SIGABRT
    assert "Remote RPC server crashed or returned malformed response" in done.stderr


@pytest.mark.parametrize("when", ["load", "prompt", "generate"])
def test_killed_server(when: str, child: Child, rpc_build: TestBuild) -> None:
    with servers(rpc_build, 2, "--threads", "1") as (victim, other):
        found = told(child(_VICTIM, victim.endpoint, str(victim.pid), when, other.endpoint))
    kind, words = found["error"]
    assert f"RPC server {victim.endpoint}: " in words and words.endswith("load the model anew")
    if when == "load":
        assert (kind, found["done"]) == ("ModelError", [])
    else:
        assert (kind, found["done"]) == ("DecodeError", ["load", "context"])
        assert found["again"] == ["DecodeError", "ContextError"]
    assert found["fresh"].startswith(" Paris")


def test_one_of_two_servers_and_its_successor(child: Child, rpc_build: TestBuild) -> None:
    code = """
import os, signal, subprocess
ours, pid = sys.argv[1:3], int(sys.argv[3])
names = [device.name for device in pyllama.rpc.connect(*ours)]
told = {"errors": []}
def write(devices):
    with pyllama.Model(MODEL, devices=devices) as model:
        return pyllama.generate(model, "The capital of France is", max_tokens=4, temperature=0).text
def attempt(call):
    try:
        call()
    except pyllama.Error as error:
        told["errors"].append([type(error).__name__, str(error)])
with pyllama.Model(MODEL, devices=names) as model:
    context = model.context(n_ctx=256)
    context.decode([1, 2, 3])
    os.kill(pid, signal.SIGKILL)
    attempt(lambda: [context.decode([4]) for _ in range(2)])
attempt(lambda: pyllama.rpc.connect(ours[1]))
attempt(lambda: write(names))
told["first"] = write(names[:1])
port = ours[1].partition(":")[2]
successor = subprocess.Popen(
    [sys.executable, "-m", "pyllama", "rpc-server", "--port", port, "--threads", "1"], stdout=subprocess.PIPE
)
try:
    told["line"] = successor.stdout.readline().decode()
    told["names"] = [device.name for device in pyllama.rpc.connect(ours[1])]
    told["both"] = write(names)
finally:
    successor.kill()
    successor.wait()
print(json.dumps({**told, "all": names}))
"""
    with servers(rpc_build, 2, "--threads", "1") as (first, second):
        found = told(child(code, first.endpoint, second.endpoint, str(second.pid)))
    kinds = [kind for kind, _ in found["errors"]]
    assert kinds == ["DecodeError", "RpcError", "RpcError"], found
    assert all(second.endpoint in words and first.endpoint not in words for _, words in found["errors"])
    assert found["names"] == found["all"][1:]
    assert found["first"].startswith(" Paris")
    assert found["both"] == found["first"]


def test_no_sigpipe(child: Child, rpc_build: TestBuild) -> None:
    """A program that is not Python has it at its default, which ends the process."""
    code = "import signal\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\n" + _VICTIM
    with servers(rpc_build, 1, "--threads", "1") as (server,):
        done = child(code, server.endpoint, str(server.pid), "generate")
    assert told(done)["error"][0] == "DecodeError"


def test_signals_do_not_break_a_connection(child: Child, rpc_build: TestBuild) -> None:
    """They interrupt system calls, which upstream takes for a lost connection."""
    code = """
import signal
seen = 0
def tick(*_):
    global seen
    seen += 1
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
(device,) = pyllama.rpc.connect(sys.argv[1])
with pyllama.Model(MODEL, devices=[device.name]) as model:
    text = pyllama.generate(model, "The capital of France is", max_tokens=32, temperature=0).text
signal.setitimer(signal.ITIMER_REAL, 0)
print(json.dumps([seen, text]))
"""
    with servers(rpc_build, 1, "--threads", "1") as (server,):
        done = child(code, server.endpoint)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    seen, text = json.loads(done.stdout.splitlines()[-1])
    assert seen > 10
    assert text.startswith(" Paris")


# Where the fault must be noticed; None where all goes well: nobody needs the answer, or a new connection
# gets it. A maximal size of all ones is one.
_NOTICED = {
    "ALLOC_BUFFER": "ModelError",
    "GET_ALIGNMENT": "ModelError",
    "GET_MAX_SIZE": "ModelError",
    "BUFFER_GET_BASE": "ModelError",
    "FREE_BUFFER": None,
    "SET_TENSOR": "ModelError",
    "GET_TENSOR": "DecodeError",
    "GRAPH_COMPUTE": "DecodeError",
    "GET_DEVICE_MEMORY": None,
    "INIT_TENSOR": "ModelError",
    "GET_ALLOC_SIZE": "ModelError",
    "HELLO": "RpcError",
    "DEVICE_COUNT": "RpcError",
}
# Those whose answer is a value that ggml relies on.
_GARBLED = (
    "ALLOC_BUFFER",
    "GET_ALIGNMENT",
    "GET_MAX_SIZE",
    "BUFFER_GET_BASE",
    "GET_ALLOC_SIZE",
    "DEVICE_COUNT",
)
_FAULTS = [(command, how) for how in ("close", "noise") for command in COMMANDS]


@pytest.mark.parametrize(("command", "how"), [*_FAULTS, *((command, "garbled") for command in _GARBLED)])
def test_every_command(command: str, how: str, child: Child, rpc_build: TestBuild) -> None:
    with servers(rpc_build, 1, "--threads", "1") as (server,):
        proxy = FaultyProxy(server, COMMANDS[command], how)
        with listening(proxy.serve) as endpoint:
            done = child(_VICTIM, endpoint, "0", "never")
    found = told(done)
    if command == "DEVICE_COUNT" and rpc_build.pin == "2025-08":
        assert not proxy.struck  # the protocol has no such command yet
        return
    assert proxy.struck
    expected = None if (command, how) == ("GET_MAX_SIZE", "garbled") else _NOTICED[command]
    if command in ("HELLO", "GET_DEVICE_MEMORY") and rpc_build.pin == "2025-08":
        expected = "ModelError"  # no greeting before, and no layers for a device without memory
    if expected is None:
        assert found == {"done": ["load", "context", "decode"], "again": []}
    else:
        kind, words = found["error"]
        assert kind == expected and endpoint in words
        assert found["done"] == (["load", "context"] if kind == "DecodeError" else [])

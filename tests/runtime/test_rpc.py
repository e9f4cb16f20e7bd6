"""Models on the devices of real RPC servers, and what `pyllama.rpc.connect` says when it cannot have them."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from real_builds import TestBuild
from rpc_servers import listening, read, rpc_build_of, run_python, servers

pytestmark = pytest.mark.matrix

# 64 greedy tokens of two prompts, and the logits behind the first, on the devices that are named.
_GREEDY = """
MODEL = sys.argv.pop(1)
def greedy(devices, **fields):
    told = {"tokens": [], "logits": []}
    with pyllama.Model(MODEL, devices=devices, **fields) as model:
        context = model.context(n_ctx=256, threads=2)
        for prompt in ("Once upon a time", "The capital of France is"):
            told["tokens"].append(pyllama.generate(context, prompt, max_tokens=64, temperature=0).tokens)
            context.clear()
            context.decode(model.tokenize(prompt))
            logits = pyllama.lib.llama_get_logits_ith(context.ptr, -1)
            told["logits"].append(list(pyllama.ffi.unpack(logits, len(model.vocab))))
    return told
"""


@pytest.fixture(scope="module")
def rpc_build(pin: str | None) -> TestBuild:
    return rpc_build_of(pin)


@pytest.fixture(scope="module")
def rpc_child(rpc_build: TestBuild, test_model: Path) -> Any:
    def run(code: str, *args: str | Path) -> Any:
        done = run_python(rpc_build, test_model, code, *args)
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def q4_0_model(rpc_child: Any, test_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model in a format that the CPU repacks where it has the instructions."""
    path = tmp_path_factory.mktemp("q4_0") / "q4_0.gguf"
    code = """
from pyllama import ffi, lib
params = lib.llama_model_quantize_default_params()
params.ftype, params.allow_requantize, params.pure = lib.LLAMA_FTYPE_MOSTLY_Q4_0, True, True
chosen = ffi.new("llama_model_quantize_params *", params)
print(lib.llama_model_quantize(MODEL.encode(), sys.argv[1].encode(), chosen))
"""
    assert rpc_child(code, path) == 0
    return path


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", ["q4_1", "q4_0"])
def test_same_numbers_as_one_machine(
    kind: str, count: int, request: pytest.FixtureRequest, rpc_child: Any, rpc_build: TestBuild
) -> None:
    """Bit for bit, if the local CPU computes with the same weights.

    By default it repacks those of q4_0 for its vector units, which changes the order of additions; a server's
    buffers are plain ones.
    """
    path = request.getfixturevalue("test_model" if kind == "q4_1" else "q4_0_model")
    code = f"""{_GREEDY}
names = [device.name for device in pyllama.rpc.connect(*sys.argv[1:])]
print(json.dumps([names, greedy(names), greedy(["CPU"], use_extra_bufts=False)]))
"""
    with servers(rpc_build, count, "--threads", "1") as running:
        names, remote, plain = rpc_child(code, path, *(server.endpoint for server in running))
    assert len(set(names)) == count
    assert [len(tokens) for tokens in remote["tokens"]] == [64, 64]
    assert remote["tokens"] == plain["tokens"]
    assert remote["logits"] == plain["logits"]


def test_layers_are_where_they_were_put(rpc_child: Any, rpc_build: TestBuild) -> None:
    """`tensor_split` and `gpu_layers`, seen from the memory that each server gave away."""
    code = """
import logging
class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []
    def emit(self, record):
        self.lines.append(record.getMessage())
logger = logging.getLogger("pyllama")
logger.setLevel(logging.INFO)
names = [device.name for device in pyllama.rpc.connect(*sys.argv[1:])]
def sizes(**options):
    handler = Lines()
    logger.addHandler(handler)
    try:
        with pyllama.Model(MODEL, **options):
            pass
    finally:
        logger.removeHandler(handler)
    return [line.split(":", 1)[1].split() for line in handler.lines if "model buffer size" in line]
print(json.dumps([
    names,
    sizes(devices=names, tensor_split=[1, 0]),
    sizes(devices=names[::-1], tensor_split=[1, 0]),
    sizes(devices=names, tensor_split=[1, 1]),
    sizes(devices=names[:1], gpu_layers=0),
    sizes(devices=["CPU"]),
]))
"""
    with servers(rpc_build, 2, "--threads", "1") as running:
        names, first, second, both, none, cpu = rpc_child(code, *(server.endpoint for server in running))
    endpoints = [server.endpoint for server in running]

    def on(rows: list[list[str]], which: int) -> float:
        return sum(float(row[-2]) for row in rows if endpoints[which] in row[0])

    assert on(first, 0) > 50 and on(first, 1) == 0
    assert on(second, 1) > 50 and on(second, 0) == 0
    assert on(both, 0) > 20 and on(both, 1) > 20
    assert on(none, 0) == on(none, 1) == on(cpu, 0) == on(cpu, 1) == 0
    assert len(names) == 2


def test_one_client_after_the_other(rpc_child: Any, rpc_build: TestBuild) -> None:
    code = """
(device,) = pyllama.rpc.connect(sys.argv[1])
assert device in pyllama.devices()
assert pyllama.rpc.connect(sys.argv[1]) == [device]
with pyllama.Model(MODEL, devices=[device.name]) as model:
    again = pyllama.rpc.connect(sys.argv[1])  # while it is in use
    text = pyllama.generate(model, "The capital of France is", max_tokens=4, temperature=0).text
print(json.dumps([device.name, device.kind, device.memory_total, again[0].name, text]))
"""
    with servers(rpc_build, 1, "--threads", "1") as (server,):
        first = rpc_child(code, server.endpoint)
        second = rpc_child(code, server.endpoint)
    assert first == second
    name, kind, memory, again, text = first
    assert name == again and name.startswith("RPC") and kind == "gpu"
    assert memory > 2**30
    assert text.startswith(" Paris")


_CONNECT = """
try:
    pyllama.rpc.connect(sys.argv[1], timeout=1.0)
    print(json.dumps(["none", ""]))
except pyllama.Error as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def hello(connection: socket.socket) -> None:
    header = read(connection, 9)
    read(connection, struct.unpack("<BQ", header)[1])


def other_version(connection: socket.socket) -> None:
    header = read(connection, 9)
    size = struct.unpack("<BQ", header)[1]
    read(connection, size)
    answer = bytes([99, 0, 0]) + bytes(size + 1 if size else 0)
    connection.sendall(struct.pack("<Q", len(answer)) + answer)


def noise(connection: socket.socket) -> None:
    hello(connection)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3)


def silence(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (hello, "hangs up when greeted"),
        (other_version, "speaks version 99.0.0 of the protocol"),
        (noise, "answers nonsense"),
        (silence, "says nothing for 1 s"),
    ],
)
def test_no_server_of_ours(serve: Any, words: str, rpc_child: Any) -> None:
    with listening(serve) as endpoint:
        kind, text = rpc_child(_CONNECT, endpoint)
    assert kind == "RpcError"
    assert text.startswith(endpoint) and words in text


def test_nobody_there(rpc_child: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{closed.getsockname()[1]}"
        kind, text = rpc_child(_CONNECT, endpoint)
    assert kind == "RpcError"
    assert text.startswith(
        f"{endpoint} cannot be reached (Connection refused): start `pyllama rpc-server` there"
    )


def test_busy_server(rpc_child: Any, rpc_build: TestBuild) -> None:
    with servers(rpc_build) as (server,), socket.create_connection((server.host, server.port)):
        kind, text = rpc_child(_CONNECT, server.endpoint)
    assert kind == "RpcError" and "busy with another client" in text


@pytest.mark.parametrize(
    "endpoint", ["", ":50052", "host:", "host:0", "host:65536", "host:x", "[::1]:50052", "::1"]
)
def test_not_an_endpoint(endpoint: str, rpc_child: Any) -> None:
    kind, text = rpc_child(_CONNECT, endpoint)
    assert kind == "UsageError"
    assert text.startswith(f"{endpoint!r} is not an endpoint: give host:port")


def test_unknown_name(rpc_child: Any) -> None:
    kind, text = rpc_child(_CONNECT, "no-such-host.invalid:50052")
    assert kind == "RpcError" and "has no IPv4 address" in text


def test_build_without_rpc(child: Any, patched_build: TestBuild) -> None:
    kind, text = json.loads(
        child(_CONNECT, "127.0.0.1:50052", PYLLAMA_BUILD=str(patched_build.folder)).stdout
    )
    if "ggml-rpc" in {path.stem.removeprefix("lib") for path in patched_build.lib_dir.iterdir()}:
        pytest.skip("PYLLAMA_TEST_BACKENDS names rpc")
    assert kind == "RpcError" and "pyllama build --backend rpc" in text

"""`pyllama rpc-server` as a user meets it: addresses, ports, Ctrl-C, clients."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from real_builds import TestBuild
from rpc_servers import Server, environment, rpc_build_of, servers

from pyllama.cli.rpc_server import check_address
from pyllama.errors import UsageError

pytestmark = pytest.mark.matrix


@pytest.fixture(scope="module")
def rpc_build(pin: str | None) -> TestBuild:
    return rpc_build_of(pin)


def run(build: TestBuild, *args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyllama", *map(str, args)],
        capture_output=True,
        text=True,
        env=environment(build),
        timeout=120,
    )


def test_serves_and_says_so(rpc_build: TestBuild, test_model: Path) -> None:
    with servers(rpc_build, 2) as (one, two):
        assert one.line == f"serving CPU on 127.0.0.1:{one.port}\n"
        args = ("run", "-m", test_model, "-p", "The capital of France is", "-n", "4", "--temp", "0", "--json")
        both = run(rpc_build, *args, "--rpc", f"{one.endpoint},{two.endpoint}")
        local = run(rpc_build, *args, "--rpc", one.endpoint, "--device", "CPU")
    assert (both.returncode, both.stderr) == (local.returncode, local.stderr) == (0, "")
    assert json.loads(both.stdout)["text"] == json.loads(local.stdout)["text"]
    assert json.loads(both.stdout)["text"].startswith(" Paris")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("client", [False, True])
def test_interrupt(client: bool, rpc_build: TestBuild) -> None:
    server = Server(rpc_build)
    with socket.socket() as connection:
        if client:
            connection.connect((server.host, server.port))
        server.process.send_signal(signal.SIGINT)
        stdout, stderr = server.process.communicate(timeout=60)
    assert (server.process.returncode, stdout, stderr) == (130, "", "")


@pytest.mark.parametrize("listening", [True, False])
def test_port_in_use(listening: bool, rpc_build: TestBuild) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if listening:
            taken.listen()
        port = taken.getsockname()[1]
        done = run(rpc_build, "rpc-server", "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: 127.0.0.1:{port} cannot be listened on (Address already in use)")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--host", "0.0.0.0"], "has no authentication and no encryption"),
        (["--host", "::"], "has no authentication and no encryption"),
        (["--host", "8.8.8.8"], "must never face an untrusted network"),
        (["--host", "::1"], "is IPv6"),
        (["--host", "::", "--allow-public"], "is IPv6"),
        (["--host", "no-such-host.invalid"], "has no IPv4 address"),
        (["--port", "65536"], "is no port"),
        (["--port", "-1"], "is no port"),
        (["--threads", "-1"], "has to be at least 0"),
        (["--device", "Vulkan9"], "there is no device 'Vulkan9'"),
        (["--device", " "], "--device ' ' names nothing"),
    ],
)
def test_wrong_usage(args: list[str], words: str, rpc_build: TestBuild) -> None:
    done = run(rpc_build, "rpc-server", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and words in done.stderr and done.stderr.count("\n") == 1


def test_address_of_another_machine(rpc_build: TestBuild) -> None:
    done = run(rpc_build, "rpc-server", "--host", "192.0.2.1", "--allow-public")
    assert done.returncode == 1
    assert done.stderr.startswith("error: 192.0.2.1:50052 cannot be listened on")


def test_public_is_warned_of(rpc_build: TestBuild) -> None:
    server = Server(rpc_build, "--host", "0.0.0.0", "--allow-public")
    server.process.send_signal(signal.SIGINT)
    _, stderr = server.process.communicate(timeout=60)
    assert server.line.startswith("serving CPU on 0.0.0.0:")
    assert stderr.startswith("warning: 0.0.0.0:") and "no authentication" in stderr
    assert server.process.returncode == 130


def test_names_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name counts as what it stands for; all of its addresses have to be loopback."""
    assert check_address("localhost", public=False).startswith("127.")

    def rows(*addresses: str) -> Any:
        return lambda *_: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", rows("127.0.0.1", "192.0.2.7"))
    with pytest.raises(UsageError, match="--host both is open to other machines"):
        check_address("both", public=False)
    assert check_address("both", public=True) == "127.0.0.1"


def test_cache(rpc_build: TestBuild, test_model: Path, tmp_path: Path) -> None:
    """Tensors above upstream's 10 MiB are kept and found again: the embeddings of the model, 15 MB."""
    folder = tmp_path / "a" / "cache"
    args = ("run", "-m", test_model, "-p", "The capital of France is", "-n", "4", "--temp", "0", "--json")
    with servers(rpc_build, 1, "--cache", str(folder)) as (server,):
        first = run(rpc_build, *args, "--rpc", server.endpoint)
        kept = sorted(folder.iterdir())
        second = run(rpc_build, *args, "--rpc", server.endpoint)
    assert (first.returncode, first.stderr) == (second.returncode, second.stderr) == (0, "")
    assert json.loads(first.stdout)["text"] == json.loads(second.stdout)["text"]
    assert kept and all(path.stat().st_size > 10 * 2**20 for path in kept)
    assert sorted(folder.iterdir()) == kept


def test_build_without_rpc(patched_build: TestBuild) -> None:
    if any(path.stem == "libggml-rpc" for path in patched_build.lib_dir.iterdir()):
        pytest.skip("PYLLAMA_TEST_BACKENDS names rpc")
    done = run(patched_build, "rpc-server", "--port", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "pyllama build --backend rpc" in done.stderr and done.stderr.count("\n") == 1


def test_the_backend_is_there_and_not_wanted(rpc_build: TestBuild, test_model: Path) -> None:
    """Its functions are declared then, and have no address."""
    env = {**environment(rpc_build), "PYLLAMA_BACKENDS": "cpu"}
    with servers(rpc_build, 1) as (server,):
        for args in (
            ["rpc-server", "--port", "0"],
            ["run", "-m", test_model, "-n", "1", "--rpc", server.endpoint],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "pyllama", *map(str, args)], capture_output=True, text=True, env=env
            )
            assert (done.returncode, done.stdout) == (1, "")
            assert "was not loaded: PYLLAMA_BACKENDS does not name it" in done.stderr
            assert done.stderr.count("\n") == 1

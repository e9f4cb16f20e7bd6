"""Real RPC servers in processes of their own, and a proxy that breaks what they say."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from real_builds import TestBuild, make_build

import pyllama

# The commands that have an answer, by number; GRAPH_COMPUTE has one at 2025-08 only, FREE_BUFFER and those
# below it up to 2026-05.
GRAPH_COMPUTE = 10
COMMANDS = {
    "ALLOC_BUFFER": 0,
    "GET_ALIGNMENT": 1,
    "GET_MAX_SIZE": 2,
    "BUFFER_GET_BASE": 3,
    "FREE_BUFFER": 4,
    "SET_TENSOR": 6,
    "GET_TENSOR": 8,
    "GRAPH_COMPUTE": GRAPH_COMPUTE,
    "GET_DEVICE_MEMORY": 11,
    "INIT_TENSOR": 12,
    "GET_ALLOC_SIZE": 13,
    "HELLO": 14,
    "DEVICE_COUNT": 15,
}


def rpc_build_of(pin: str | None, wanted: str = "all") -> TestBuild:
    """Return a build that has the rpc backend."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYLLAMA_TEST_BACKENDS", "rpc")
        return make_build(pin, wanted)


def environment(build: TestBuild, **env: str) -> dict[str, str]:
    """Return the variables for a process that uses `build`."""
    root = str(Path(pyllama.__file__).parents[1])
    words = {"PYLLAMA_BUILD": str(build.folder), "PYTHONPATH": root, "OMP_WAIT_POLICY": "passive"}
    return {**os.environ, "GGML_NO_BACKTRACE": "1", **words, **env}


def run_python(
    build: TestBuild, model: Path, code: str, *args: str | Path, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a snippet that finds `pyllama`, `json`, `sys` and `MODEL`; any exit code is allowed."""
    words = [sys.executable, "-c", f"import json, sys, pyllama\nMODEL = {str(model)!r}\n{code}"]
    return subprocess.run(
        [*words, *map(str, args)],
        capture_output=True,
        text=True,
        env=environment(build, **env),
        timeout=300,
        check=False,
    )


class Server:
    """One `pyllama rpc-server` on a port of its own."""

    def __init__(self, build: TestBuild, *args: str, port: int = 0) -> None:
        command = [
            sys.executable,
            "-m",
            "pyllama",
            "rpc-server",
            "--port",
            str(port),
            "--device",
            "CPU",
            *args,
        ]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(build),
            # Python takes SIGINT only where it is not ignored, as it is behind `&`.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        self.line = self.process.stdout.readline()
        assert self.line.startswith("serving CPU on "), self.line + self.process.stderr.read()
        self.endpoint = self.line.split()[-1]
        self.host, _, port_text = self.endpoint.partition(":")
        self.port = int(port_text)

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


@contextmanager
def servers(build: TestBuild, count: int = 1, *args: str) -> Iterator[list[Server]]:
    """Run `count` servers."""
    with ExitStack() as stack:
        running = []
        for _ in range(count):
            server = Server(build, *args)
            stack.callback(server.stop)
            running.append(server)
        yield running


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Accept connections at the endpoint that is yielded, each served in a thread by `serve`."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threading.Thread(target=_quietly, args=(serve, connection), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        for connection in connections:
            connection.close()


def _quietly(serve: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with connection, suppress(OSError, EOFError):
        serve(connection)


def read(connection: socket.socket, size: int) -> bytes:
    """Read exactly `size` bytes; EOFError when the other side has gone."""
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


class FaultyProxy:
    """Passes everything on to a real server, until the first command of one kind.

    `how` is `close` (hang up), `noise` (bytes that are no answer) or `garbled` (an answer of the right size,
    all ones). The first connection is the probe of `pyllama.rpc.connect` and gets through.
    """

    def __init__(self, server: Server, command: int, how: str) -> None:
        self.server, self.command, self.how = server, command, how
        self.connections = 0
        self.struck = False

    def serve(self, client: socket.socket) -> None:
        """Pass on one connection."""
        self.connections += 1
        probing = self.connections == 1
        garble = threading.Event()
        with ExitStack() as stack:
            server = stack.enter_context(socket.create_connection((self.server.host, self.server.port)))
            stack.callback(_hang_up, server)  # close alone waits for the thread that reads from it
            threading.Thread(target=_answers, args=(server, client, garble), daemon=True).start()
            while True:
                header = read(client, 9)
                command, size = struct.unpack("<BQ", header)
                payload = read(client, size)
                if command == self.command and not probing:
                    self.struck = True
                    if self.how == "noise":
                        client.sendall(bytes(range(1, 65)))
                    if self.how != "garbled":
                        return
                    garble.set()  # what was asked before is answered: a client waits for each answer
                server.sendall(header + payload)


def _answers(server: socket.socket, client: socket.socket, garble: threading.Event) -> None:
    with suppress(OSError, EOFError):
        while True:
            header = read(server, 8)
            answer = read(server, struct.unpack("<Q", header)[0])
            garbled = garble.is_set()
            garble.clear()  # before the client has its answer: it asks on at once
            client.sendall(header + (b"\xff" * len(answer) if garbled else answer))
    _hang_up(client)


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)

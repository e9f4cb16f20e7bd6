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
        self.connections += 1
        probing = self.connections == 1
        with socket.create_connection((self.server.host, self.server.port)) as server:
            back = threading.Thread(target=_quietly_pump, args=(server, client), daemon=True)
            started = False
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
                    server.sendall(header + payload)
                    answer = read(server, 8)
                    (length,) = struct.unpack("<Q", answer)
                    read(server, length)
                    client.sendall(answer + b"\xff" * length)
                    continue
                server.sendall(header + payload)
                if self.how != "garbled":
                    if not started:
                        back.start()
                        started = True
                elif command in _ANSWERED:
                    answer = read(server, 8)
                    client.sendall(answer + read(server, struct.unpack("<Q", answer)[0]))


_ANSWERED = {0, 1, 2, 3, 7, 8, 9, 11, 13, 14, 15}  # at 2026-10


def _quietly_pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_RDWR)

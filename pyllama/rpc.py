"""Devices of other machines, over llama.cpp's RPC.

The protocol has no authentication and no encryption, and a server runs what a client sends: use it between
machines that trust each other, on a network that nobody else can reach.
"""

from __future__ import annotations

import socket
import struct
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .device import Device, describe, handles
from .errors import RpcError, UsageError
from .native import log
from .native.loader import Library, load

if TYPE_CHECKING:
    from .model import Model

DEFAULT_PORT = 50052
_TIMEOUT = 5.0  # seconds
_HELLO = 14
_CAPABILITIES = 24  # bytes about other transports than TCP; all zero: none
_CAPABILITIES_SINCE = 4  # major version of the protocol
_ADVICE = "close the model, start the server again and load the model anew"
# Models by the endpoints that they use: such a server is busy with us and answers no second connection.
_users: dict[str, weakref.WeakSet[Model]] = {}


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """Read `host:port` or `host`. Raises UsageError; IPv6 addresses, which upstream cannot use, are one."""
    host, colon, port = text.strip().partition(":")
    number = port if colon else str(DEFAULT_PORT)
    if not host or not (number.isascii() and number.isdigit()) or not 1 <= int(number) <= 65535:
        raise UsageError(
            f"{text!r} is not an endpoint: give host:port, with a name or an IPv4 address, and a port "
            "from 1 to 65535"
        )
    return Endpoint(host, int(number))


def connect(*endpoints: str, timeout: float = _TIMEOUT) -> list[Device]:
    """Make the devices of servers known to this process, and return them.

    `endpoints` are `host:port` (or `host`, with port 50052), `timeout` is in seconds and holds for each
    step of asking a server who it is. From then on `pyllama.devices()` lists the devices and
    `Model(devices=…)` takes their names; a Model without `devices` uses all of them. A server that is
    known already is only asked whether it is there, and that not while a model uses it.

    Raises UsageError for what is no endpoint, RpcError when no rpc backend is loaded, or when a server
    cannot be reached, is busy with another client, or speaks another version of the protocol.
    """
    wanted = dict.fromkeys(parse_endpoint(text) for text in endpoints)
    library = load()
    require_backend(library)
    found: list[Device] = []
    for endpoint in wanted:
        if not _in_use(str(endpoint)):
            probe(endpoint, timeout)
        with log.collected() as lines:
            added = _register(library, endpoint)
            words = lines()
        if not added:
            raise RpcError(f"{endpoint} offers no device: {words or 'it hung up, or answered nonsense'}")
        found += [describe(library.ffi, library.raw, handle) for handle in added]
    return found


def probe(endpoint: Endpoint, timeout: float = _TIMEOUT) -> tuple[int, int, int]:
    """Return the version of the protocol that a server speaks, if it is one that this build understands.

    On a connection of our own: upstream's client would wait without end. Raises RpcError.
    """
    raw = load().raw
    ours = int(raw.RPC_PROTO_MAJOR_VERSION), int(raw.RPC_PROTO_MINOR_VERSION)
    request = bytes(_CAPABILITIES) if ours[0] >= _CAPABILITIES_SINCE else b""
    try:
        with _open(endpoint, timeout) as connection:
            connection.sendall(struct.pack("<BQ", _HELLO, len(request)) + request)
            (size,) = struct.unpack("<Q", _read(connection, 8))
            answer = _read(connection, size) if 3 <= size <= 4096 else b""
    except TimeoutError:
        raise RpcError(
            f"{endpoint} takes the connection and says nothing for {timeout:g} s: it is busy with another "
            "client, or no RPC server"
        ) from None
    except EOFError:
        raise RpcError(
            f"{endpoint} hangs up when greeted: it is no RPC server, or one of another version than ours "
            f"({ours[0]}.{ours[1]}, pin {load().build.pin})"
        ) from None
    except OSError as error:
        raise RpcError(
            f"{endpoint}: the connection was lost while greeting ({error.strerror or error})"
        ) from None
    if len(answer) != (4 + _CAPABILITIES if request else 3):
        raise RpcError(f"{endpoint} answers nonsense: it is no RPC server, or one of another version")
    major, minor, patch = answer[:3]
    if major != ours[0] or minor > ours[1]:
        raise RpcError(
            f"{endpoint} speaks version {major}.{minor}.{patch} of the protocol, we {ours[0]}.{ours[1]}: "
            f"use the same pin on both machines (here {load().build.pin})"
        )
    return major, minor, patch


def require_reachable(endpoints: Iterable[str]) -> None:
    """Raise RpcError when nobody listens at an endpoint that no open model uses.

    llama.cpp would leave the device out, load for long, or end the process, as the pin may be.
    """
    for endpoint in endpoints:
        if not _in_use(endpoint):
            _open(parse_endpoint(endpoint), _TIMEOUT).close()


def _open(endpoint: Endpoint, timeout: float) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            endpoint.host, endpoint.port, socket.AF_INET, socket.SOCK_STREAM
        )[0]
    except (OSError, UnicodeError):
        raise RpcError(f"{endpoint}: the name {endpoint.host} has no IPv4 address: check it") from None
    connection = socket.socket(family, kind)
    connection.settimeout(timeout)
    try:
        connection.connect(address)
    except OSError as error:
        connection.close()
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise RpcError(
            f"{endpoint} cannot be reached ({reason}): start `pyllama rpc-server` there, and check address "
            "and port"
        ) from None
    return connection


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def available(library: Library) -> bool:
    """Whether the rpc backend is loaded: one of the build, or of an installed plug-in."""
    return "ggml_backend_rpc_start_server" not in library.missing


def require_backend(library: Library) -> None:
    """Raise RpcError when this process cannot do RPC."""
    if available(library):
        return
    if "rpc" in library.skipped:
        raise RpcError(f"the rpc backend is there and was not loaded: {library.skipped['rpc']}")
    raise RpcError(
        "there is no rpc backend: run `pyllama build --backend rpc` and set PYLLAMA_BUILD to the folder that "
        "it prints, or install the wheel pyllama-cffi-rpc that belongs to this pyllama-cffi"
    )


def _register(library: Library, endpoint: Endpoint) -> list[Any]:
    """Add a server to ggml's registry, which ignores what it has, and return its devices."""
    raw, ffi = library.raw, library.ffi
    name = str(endpoint).encode()
    if not hasattr(raw, "ggml_backend_rpc_add_server"):  # one device per server at 2025-08
        device = raw.ggml_backend_rpc_add_device(name)
        if device not in handles():
            raw.ggml_backend_device_register(device)
        return [device]
    registry = raw.ggml_backend_rpc_add_server(name)
    if registry == ffi.NULL:
        return []
    devices = [
        raw.ggml_backend_reg_dev_get(registry, i) for i in range(raw.ggml_backend_reg_dev_count(registry))
    ]
    if devices[0] not in handles():
        raw.ggml_backend_register(registry)
    return devices


def endpoints_of(devices: Iterable[Any]) -> tuple[str, ...]:
    """Return the endpoints of those `ggml_backend_dev_t` that are devices of servers."""
    library = load()
    if not available(library):
        return ()
    raw, ffi = library.raw, library.ffi
    found: dict[str, None] = {}
    for device in devices:
        if ffi.string(raw.ggml_backend_reg_name(raw.ggml_backend_dev_backend_reg(device))) == b"RPC":
            text = ffi.string(raw.ggml_backend_dev_description(device)).decode()
            found[text.removeprefix("RPC[").removesuffix("]")] = None  # 2025-08 says RPC[host:port]
    return tuple(found)


def failure(endpoints: Sequence[str]) -> str:
    """Say which connection to one of these servers was lost, and what to do; empty when none was.

    Without the feature rpc-errors upstream ends the process instead.
    """
    if not endpoints:
        return ""
    library = load()
    if not hasattr(library.raw, "ggml_backend_rpc_failure"):
        return ""
    buffer = library.ffi.new("char[]", 512)
    for endpoint in endpoints:
        if library.raw.ggml_backend_rpc_failure(endpoint.encode(), buffer, len(buffer)):
            return f"{library.ffi.string(buffer).decode('utf-8', 'replace')}: {_ADVICE}"
    return ""


def remember(model: Model, endpoints: Sequence[str]) -> None:
    """Note that a model uses these servers."""
    for endpoint in endpoints:
        _users.setdefault(endpoint, weakref.WeakSet()).add(model)


def _in_use(endpoint: str) -> bool:
    return any(not model.closed for model in _users.get(endpoint, ()))

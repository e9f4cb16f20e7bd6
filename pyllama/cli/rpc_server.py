"""`pyllama rpc-server`: lend the devices of this machine to others."""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..native.loader import Library
    from ..rpc import Endpoint

_PORT = 50052
_WARNING = (
    "the protocol has no authentication and no encryption, and whoever reaches the port can use and crash "
    "this process: it must never face an untrusted network"
)
_POLL = 0.05  # seconds


def add_command(commands: Any) -> None:
    """Add `rpc-server`."""
    parser = commands.add_parser(
        "rpc-server",
        help="lend the devices of this machine to `pyllama run --rpc` on others",
        description=f"Serve devices over llama.cpp's RPC until Ctrl-C. Mind: {_WARNING}.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="IPv4 address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=_PORT, help=f"0 takes a free one (default: {_PORT})")
    parser.add_argument(
        "--allow-public", action="store_true", help="listen on an address that others can reach"
    )
    parser.add_argument(
        "--device", metavar="D,…", help="devices to lend (default: all but the CPU, or the CPU)"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all there are)")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep large tensors here for the next client"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from ..context import available_threads
    from ..errors import UsageError
    from ..native.loader import load
    from ..rpc import Endpoint, require_backend

    if not 0 <= args.port <= 65535:
        raise UsageError(f"--port {args.port} is no port: give one from 1 to 65535, or 0 for a free one")
    if args.threads < 0:
        raise UsageError(f"--threads {args.threads} has to be at least 0")
    address = check_address(args.host, public=args.allow_public)
    library = load()
    require_backend(library)
    devices = _devices(args.device, library)
    if args.cache is not None:
        args.cache.mkdir(parents=True, exist_ok=True)
    endpoint = Endpoint(address, free_port(address, args.port))
    threads = args.threads or available_threads()
    return _serve(library, endpoint, devices, threads, args.cache)


def check_address(host: str, *, public: bool) -> str:
    """Return the IPv4 address to listen on.

    Raises UsageError for a name without one, for IPv6, which upstream cannot do, and, unless `public`, for
    an address that other machines can reach.
    """
    from ..errors import UsageError

    try:
        literal: ipaddress.IPv4Address | ipaddress.IPv6Address | None = ipaddress.ip_address(host)
    except ValueError:
        literal = None
    refusal = f"--host {host} is open to other machines, while {_WARNING} (--allow-public insists)"
    if isinstance(literal, ipaddress.IPv6Address):
        if not literal.is_loopback and not public:
            raise UsageError(refusal)
        raise UsageError(f"--host {host} is IPv6, which llama.cpp's RPC cannot use: give an IPv4 address")
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host} has no IPv4 address: give an address of this machine") from None
    addresses = [str(row[4][0]) for row in found]
    if not public and not all(ipaddress.ip_address(address).is_loopback for address in addresses):
        raise UsageError(refusal)
    return addresses[0]


def free_port(address: str, port: int) -> int:
    """Return `port`, or a free one for 0. Raises RpcError when it cannot be listened on."""
    from ..errors import RpcError

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
            trial.listen(1)  # bind alone succeeds on a port where somebody listens with SO_REUSEADDR
        except OSError as error:
            raise RpcError(
                f"{address}:{port} cannot be listened on ({error.strerror}): choose another --port or --host"
            ) from None
        return int(trial.getsockname()[1])


def _devices(names: str | None, library: Library) -> list[Any]:
    from ..device import choose, handles
    from ..errors import UsageError
    from .arguments import names_in

    raw = library.raw
    every = handles()
    cpu = [h for h in every if raw.ggml_backend_dev_type(h) == raw.GGML_BACKEND_DEVICE_TYPE_CPU]
    if names is not None:
        chosen = choose(names_in("--device", names)) or cpu
    else:
        helpers = (raw.GGML_BACKEND_DEVICE_TYPE_CPU, raw.GGML_BACKEND_DEVICE_TYPE_ACCEL)
        chosen = [h for h in every if raw.ggml_backend_dev_type(h) not in helpers] or cpu
    if len(chosen) > 1 and _serves_one(library):
        if names is not None:
            raise UsageError(
                f"a server of pin {library.build.pin} lends one device: name one, start one for each"
            )
        chosen = chosen[:1]
    return chosen


def _serves_one(library: Library) -> bool:
    """Say whether upstream's server is that of 2025-08, which takes a backend."""
    first = library.ffi.typeof(library.resolve("ggml_backend_rpc_start_server")).args[0]
    return bool(first.cname.startswith("struct ggml_backend "))


def _serve(library: Library, endpoint: Endpoint, devices: list[Any], threads: int, cache: Path | None) -> int:
    from ..device import name_of
    from ..errors import RpcError
    from ..rpc import Endpoint, probe

    names = ", ".join(name_of(device) for device in devices)
    told = os.dup(1)
    with suppress(OSError):  # upstream reports every client there
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # Not in the main thread: C would keep Python from seeing a Ctrl-C.
    server = threading.Thread(
        target=_start, args=(library, str(endpoint), devices, threads, cache), name="rpc-server", daemon=True
    )
    reached_at = Endpoint("127.0.0.1", endpoint.port) if endpoint.host == "0.0.0.0" else endpoint
    try:
        server.start()
        while server.is_alive():
            try:
                probe(reached_at, timeout=5)
                break
            except RpcError:
                time.sleep(_POLL)
        if server.is_alive():
            if not endpoint.host.startswith("127."):
                print(
                    f"warning: {endpoint} can be reached from other machines, and {_WARNING}", file=sys.stderr
                )
            os.write(told, f"serving {names} on {endpoint}\n".encode())
        while server.is_alive():
            server.join(_POLL)
    except KeyboardInterrupt:
        os._exit(130)  # the server's thread is in C: an orderly end would pull the libraries from under it
    raise RpcError(f"the server on {endpoint} ended by itself: see what it said above")


def _start(library: Library, endpoint: str, devices: list[Any], threads: int, cache: Path | None) -> None:
    """Run upstream's server; it returns when it cannot start or accept."""
    raw, ffi = library.raw, library.ffi
    start = library.resolve("ggml_backend_rpc_start_server")
    name = endpoint.encode()
    folder = ffi.NULL if cache is None else ffi.new("char[]", os.fsencode(cache))
    if not _serves_one(library):
        start(name, folder, threads, len(devices), ffi.new("ggml_backend_dev_t[]", devices))
        return
    device = devices[0]
    backend = raw.ggml_backend_dev_init(device, ffi.NULL)
    if raw.ggml_backend_dev_type(device) == raw.GGML_BACKEND_DEVICE_TYPE_CPU:
        raw.ggml_backend_cpu_set_n_threads(backend, threads)
    free, total = ffi.new("size_t *"), ffi.new("size_t *")
    raw.ggml_backend_dev_memory(device, free, total)
    start(backend, name, folder, free[0], total[0])

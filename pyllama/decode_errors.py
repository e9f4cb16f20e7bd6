"""What went wrong when tokens could not be decoded, in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import rpc
from .errors import Cancelled, DecodeError
from .kv import fullness

if TYPE_CHECKING:
    from .context import Context

NO_ROOM = 1  # nothing was computed
STOPPED = 2
_WORDS = {
    NO_ROOM: "the context is full: use a larger n_ctx, or clear it",
    -1: "the batch is not valid",
}


def check_servers(context: Context, n: int) -> None:
    """Raise DecodeError when a server was lost: what was read from it is zeros, and no code says so."""
    context.library.raw.llama_synchronize(context.ptr)
    lost = rpc.failure(context.model.rpc_endpoints)
    if lost:
        raise DecodeError(f"{n} tokens could not be decoded: {lost}", -1)


def make(context: Context, code: int, n: int, mark: int, left: str = "") -> DecodeError:
    """Return the error for a code of `llama_decode`, with what the log says since `mark`.

    `left` says what of the tokens could not be taken back.
    """
    lost = rpc.failure(context.model.rpc_endpoints)
    if lost:
        return DecodeError(f"{n} tokens could not be decoded (code {code}): {lost}{left}", code)
    if code == STOPPED:
        return Cancelled(f"the decoding of {n} tokens was stopped")
    ffi = context.library.ffi
    buffer = ffi.new("char[]", 4096)
    size = context.library.raw.pyllama_log_since(mark, buffer, 4096)
    last = ffi.unpack(buffer, size).decode("utf-8", "replace").replace("\n", "; ")
    words = _WORDS.get(code, "the backend failed")
    if code == NO_ROOM:
        words += fullness(context)
    return DecodeError(f"{n} tokens could not be decoded (code {code}): {words}{left}. {last}".strip(), code)

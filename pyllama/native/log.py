"""llama.cpp's log, through Python's `logging` under the name `pyllama`.

Lines are filtered in C by the logger's level, so what nobody reads costs nothing. The last
warnings and errors are kept in C, and `collected` gives those that one call caused.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger("pyllama")
logger.addHandler(logging.NullHandler())

# ggml's level to Python's, and back.
_TO_PYTHON = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_OFF = 5
_BUFFER = 8192

_ffi: Any = None
_raw: Any = None
_pending: BaseException | None = None


def install(ffi: Any, raw: Any) -> None:
    """Send llama.cpp's log to us. Called by the loader."""
    global _ffi, _raw
    _ffi, _raw = ffi, raw
    ffi.def_extern(name="pyllama_on_log", onerror=_on_log_error)(_on_log)
    raw.pyllama_log_set_sink(ffi.addressof(raw, "pyllama_on_log"))
    callback = ffi.cast("ggml_log_callback", ffi.addressof(raw, "pyllama_log"))
    raw.llama_log_set(callback, ffi.NULL)
    sync_level()
    atexit.register(raw.pyllama_log_set_threshold, _OFF)  # no call into a dying interpreter


def sync_level() -> None:
    """Tell C which lines the logger wants. Called before models and contexts are made."""
    wanted = logger.getEffectiveLevel()
    threshold = min((ggml for ggml, python in _TO_PYTHON.items() if python >= wanted), default=_OFF)
    _raw.pyllama_log_set_threshold(threshold)


@contextmanager
def collected() -> Iterator[Callable[[], str]]:
    """Yield a function that returns the warnings and errors logged by this thread since then."""
    mark = _raw.pyllama_log_mark()

    def lines() -> str:
        buffer = _ffi.new("char[]", _BUFFER)
        size = _raw.pyllama_log_since(mark, buffer, _BUFFER)
        text: str = _ffi.unpack(buffer, size).decode("utf-8", "replace")
        return "; ".join(line.strip() for line in text.splitlines())

    yield lines


def raise_pending() -> None:
    """Raise what a log handler raised while C was running, a Ctrl-C for example."""
    global _pending
    error, _pending = _pending, None
    if error is not None:
        raise error


def _on_log_error(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    global _pending
    _pending = error  # C cannot carry it on


def _on_log(level: int, line: Any) -> None:
    text = _ffi.string(line).decode("utf-8", "replace")
    logger.log(_TO_PYTHON.get(level, logging.INFO), "%s", text)

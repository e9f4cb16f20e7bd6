"""Owned C objects: freed exactly once, children before parents, in any order of closing."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

from typing_extensions import Self

from ..errors import ClosedError


class Handle:
    """Base of every wrapper: `.ptr` is the C pointer, `with` and `close()` free it.

    A child keeps its parent alive; closing a parent closes its children first.
    """

    def __init__(self, ptr: Any, free: Callable[[Any], None], parent: Handle | None = None) -> None:
        self._ptr = ptr
        self._free = free
        self._parent = parent
        self._children: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._lock = threading.RLock()
        if parent is not None:
            parent._children.add(self)

    @property
    def ptr(self) -> Any:
        """The C pointer, for use with `pyllama.lib`. Raises ClosedError after `close()`."""
        if self._ptr is None:
            raise ClosedError(f"this {type(self).__name__} is closed: make a new one")
        return self._ptr

    @property
    def closed(self) -> bool:
        """True once the C object has been freed."""
        return self._ptr is None

    def close(self) -> None:
        """Free the C object and everything made from it. Closing twice does nothing.

        Waits for a call that another thread is making on it.
        """
        for child in list(self._children):
            child.close()
        with self._lock:
            ptr, self._ptr = self._ptr, None
        if ptr is not None:
            self._free(ptr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Half-made objects have no pointer, and at interpreter exit modules may be gone.
        ptr = getattr(self, "_ptr", None)
        if ptr is not None:
            self._ptr = None
            try:  # noqa: SIM105 - at interpreter exit a global like `suppress` may be gone
                self._free(ptr)
            except Exception:
                pass

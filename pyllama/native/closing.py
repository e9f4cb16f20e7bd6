"""What has to be closed can be used in a `with` statement."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Closing:
    """Base of what owns something: `with` calls `close()` at its end.

    No abstract class: those make `isinstance` a call of Python's, which each token would pay for.
    """

    __slots__ = ()

    def close(self) -> None:
        """Free what it owns. A second call does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

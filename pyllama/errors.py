"""The one error hierarchy of pyllama.

Every message is a sentence that tells the user what to do next. Builder, runtime and
command line all raise from here; nothing below imports anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .response import Generation


class Error(Exception):
    """Base class of every error that pyllama raises on purpose."""


class UsageError(Error, ValueError):
    """A name or value that does not exist: a pin, a feature, a backend, an option."""


class FetchError(Error):
    """A source could not be reached or did not deliver what the lock says."""


class VerificationError(FetchError):
    """Bytes arrived, but they are not the ones that are locked."""


class PatchError(Error):
    """A feature does not apply, or a patched tree is not what it should be."""


class BuildError(Error):
    """Something that a build needs is missing, or the build failed."""


class BindingsError(BuildError):
    """The public headers hold something that the generator cannot bind."""


class LoadError(Error, ImportError):
    """The native libraries are missing or do not belong to this module."""


class MissingFunctionError(LoadError, NotImplementedError):
    """A function is declared in the headers, but no loaded library has it."""


class ModelError(Error):
    """A model file could not be loaded."""


class ContextError(Error):
    """A context could not be created or used as asked."""


class DecodeError(ContextError):
    """llama.cpp could not process a batch; `code` is its return value."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        """Let it be pickled, as for another process: Exception would make it of the message alone."""
        return type(self), (*self.args, self.code), self.__dict__


class Cancelled(DecodeError):
    """A decode was stopped by a `Cancel`.

    `cleared` are the sequences that hold nothing now, because they could not be put back to what they held
    before; all others were.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, 2)
        self.cleared: tuple[int, ...] = ()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self.args, self.__dict__


class GenerationErrors(Error):
    """Some requests of `generate_many` failed; the others were finished.

    `errors` has the exception of each one that failed, by its place among the prompts; `results` has what
    came of each prompt, None for those.
    """

    def __init__(self, errors: dict[int, Exception], results: list[Generation | None]) -> None:
        first = min(errors)
        super().__init__(
            f"{len(errors)} of {len(results)} prompts failed, the rest is in `results` (prompt {first}: "
            f"{errors[first]})"
        )
        self.errors = errors
        self.results = results

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.errors, self.results), self.__dict__


class OutputError(ContextError):
    """Logits or embeddings were used, or held on to, past the decode that they came from."""


class StateError(Error):
    """A saved sequence is damaged, of another model or build, or cannot be written."""


class RpcError(Error):
    """A server of another machine cannot be reached, does not understand us, or cannot be started."""


class ClosedError(Error):
    """A handle was used after it had been closed."""


class ForkError(ClosedError):
    """A child made by `os.fork` used what its parent had made: only the parent has the threads behind it."""

"""Locks in the user's cache: two processes never make the same thing at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from ..errors import Error, FetchError
from .paths import Paths
from .progress import Reporter


@contextmanager
def locked(paths: Paths, name: str, reporter: Reporter, failure: type[Error] = FetchError) -> Iterator[None]:
    """Hold the lock `name`, saying so when there is a wait.

    Raises `failure` when the cache cannot be written.
    """
    try:
        paths.locks.mkdir(parents=True, exist_ok=True)
        paths.downloads.mkdir(parents=True, exist_ok=True)
        lock = FileLock(paths.locks / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            reporter.say("another pyllama is making this: waiting for it")
            lock.acquire()
    except OSError as error:
        raise failure(
            f"the cache {paths.cache} cannot be written ({error.strerror}): "
            "set PYLLAMA_CACHE to a folder that can"
        ) from error
    try:
        yield
    finally:
        lock.release()

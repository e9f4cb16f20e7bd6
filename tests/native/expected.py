"""Which backends must find a device where the tests run: then `none here` is a failure, not a note."""

from __future__ import annotations

from collections.abc import Mapping

from pyllama.builder.compile.backends import Backend

VARIABLE = "PYLLAMA_TEST_EXPECT"
ALWAYS = "always there"


def named(environment: Mapping[str, str], rows: Mapping[str, Backend]) -> frozenset[str]:
    """Return the backends that this machine is said to have: `PYLLAMA_TEST_EXPECT=vulkan,blas`.

    Raises ValueError for a name that is no backend's.
    """
    names = frozenset(name.strip() for name in environment.get(VARIABLE, "").split(",") if name.strip())
    unknown = sorted(names - set(rows))
    if unknown:
        raise ValueError(f"{VARIABLE} names {unknown[0]!r}, and no backend is called that")
    return names


def fault(row: Backend, lacking: str, state: str, expected: frozenset[str]) -> str | None:
    """Return what is wrong with a backend; `lacking` says why it was not built, `state` is explain's word."""
    if lacking:
        return f"{row.name} is expected here and not built: {lacking}" if row.name in expected else None
    wanted = row.name in expected or row.device == ALWAYS
    allowed = ("used",) if wanted else ("used", "no device")
    return None if state in allowed else f"{row.name} is {state}, and not {' or '.join(allowed)}"

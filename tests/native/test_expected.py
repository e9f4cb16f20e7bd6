"""What counts as a failure when a backend finds no device."""

from __future__ import annotations

import pytest

from pyllama.builder.compile import backends

from .expected import VARIABLE, fault, named

ROWS = backends.table()
NONE: frozenset[str] = frozenset()


def test_names() -> None:
    assert named({}, ROWS) == NONE == named({VARIABLE: " ,"}, ROWS)
    assert named({VARIABLE: "vulkan, blas"}, ROWS) == {"vulkan", "blas"}
    with pytest.raises(ValueError, match="names 'vulcan'"):
        named({VARIABLE: "blas,vulcan"}, ROWS)


def test_some_have_a_device_everywhere() -> None:
    assert {row.name for row in ROWS.values() if fault(row, "", "no device", NONE)} == {
        "cpu",
        "cpu-all",
        "blas",
    }


@pytest.mark.parametrize(
    ("name", "lacking", "state", "said"),
    [
        ("vulkan", "", "used", None),
        ("vulkan", "", "no device", "vulkan is no device, and not used"),
        ("vulkan", "needs glslc", "", "vulkan is expected here and not built: needs glslc"),
        ("cuda", "needs nvcc", "", None),
        ("cuda", "", "no device", None),
        ("cuda", "", "broken", "cuda is broken, and not used or no device"),
    ],
)
def test_faults(name: str, lacking: str, state: str, said: str | None) -> None:
    assert fault(ROWS[name], lacking, state, frozenset({"vulkan"})) == said

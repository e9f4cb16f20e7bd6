"""When `nox -s cuda` fails: whatever is wrong, but a driver that this machine does not have."""

from __future__ import annotations

import pytest
from cuda_state import fault


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("used", ""),
        ("no device", "it needs an NVIDIA GPU and its driver"),
        ("broken", "x.so cannot be loaded: libcuda.so.1: cannot open shared object file: No such file"),
    ],
)
def test_what_is_right(state: str, advice: str) -> None:
    assert fault([{"backend": "cpu"}, {"backend": "cuda", "state": state, "advice": advice}]) is None


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("broken", "x.so cannot be loaded: libcublas.so.13: cannot open shared object file: No such file"),
        ("broken", "it crashed the process that tried it (SIGSEGV)"),
        ("broken", "x.so cannot be loaded: libcuda.so.1: undefined symbol: cuMemMap"),
        ("not built", "pyllama build --backend cuda"),
        ("cannot be built", "the CUDA toolkit"),
        ("off", "PYLLAMA_BACKENDS does not name it"),
    ],
)
def test_what_is_a_fault(state: str, advice: str) -> None:
    said = fault([{"backend": "cuda", "state": state, "advice": advice}])
    assert said is not None and advice in said


def test_no_answer_is_a_fault() -> None:
    assert fault([{"backend": "cpu", "state": "used", "advice": ""}])

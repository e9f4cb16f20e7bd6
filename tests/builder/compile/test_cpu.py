"""The CPU variant comes from upstream's own list."""

from __future__ import annotations

import pytest

from pyllama.builder.compile.cpu import best_variant, machine_features

LIST = """
if (GGML_SYSTEM_ARCH STREQUAL "x86")
    ggml_add_cpu_backend_variant(x64)
    ggml_add_cpu_backend_variant(sse42        SSE42)
    ggml_add_cpu_backend_variant(haswell      SSE42 AVX F16C AVX2 BMI2 FMA)
    ggml_add_cpu_backend_variant(skylakex     SSE42 AVX F16C AVX2 BMI2 FMA AVX512)
    ggml_add_cpu_backend_variant(alderlake    SSE42 AVX F16C AVX2 BMI2 FMA AVX_VNNI)
    ggml_add_cpu_backend_variant(future       SSE42 AVX F16C AVX2 BMI2 FMA AVX512 AVX_UNHEARD_OF)
    ggml_add_cpu_backend_variant(armv8.2_1    DOTPROD)
endif()
"""
HASWELL = {"sse4_2", "avx", "f16c", "avx2", "bmi2", "fma"}
AVX512 = {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"}


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (set(), "x64"),
        ({"sse4_2", "avx"}, "sse42"),
        (HASWELL, "haswell"),
        (HASWELL | AVX512, "skylakex"),
        (HASWELL | AVX512 - {"avx512vl"}, "haswell"),
        (HASWELL | {"avx_vnni"}, "alderlake"),
        (HASWELL - {"fma"}, "sse42"),
    ],
)
def test_best(flags: set[str], name: str) -> None:
    assert best_variant(LIST, "x86_64", frozenset(flags)).name == name


def test_every_feature_is_said_explicitly() -> None:
    options = dict(best_variant(LIST, "x86_64", frozenset(HASWELL)).options)
    assert options["GGML_AVX2"] == "ON"
    assert options["GGML_AVX512"] == "OFF"
    assert "GGML_NATIVE" not in options


def test_other_architectures_get_upstreams_defaults() -> None:
    assert best_variant(LIST, "aarch64", frozenset({"asimddp"})).options == ()


def test_features_of_this_machine_are_stable() -> None:
    assert machine_features() == machine_features()

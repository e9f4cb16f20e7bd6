"""Feature device-state on Vulkan, lavapipe where there is no GPU: the code of test_device_state.py."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from native import expected
from real_builds import make_build
from test_device_state import CODE, KINDS, check, wrong

from pyllama.builder.compile import backends, needs
from pyllama.builder.compile.toolchain import find_compilers

pytestmark = pytest.mark.backends

DEVICE = "Vulkan0"
# The cells and recurrent states of a model have to be on the device, or this would test the CPU once more.
WHERE = f"""
from pyllama.errors import ContextError
if {DEVICE!r} not in [device.name for device in pyllama.devices()]:
    print("no device")
else:
    with pyllama.Model(sys.argv[1]) as model, model.context(n_ctx=256) as context:
        try:
            found = context.memory()
            there = [row for row in found if row.device == {DEVICE!r} and not row.host and row.context]
            print("used" if there else f"unused: {{found}}")
        except ContextError:  # the oldest pin cannot say
            print("used")
"""


def _skip(reason: str) -> None:
    """Skip, or fail where this machine is said to have Vulkan."""
    if "vulkan" in expected.named(os.environ, backends.table()):
        pytest.fail(f"vulkan is expected here: {reason}")
    pytest.skip(f"vulkan: {reason}")


# A cache of each type takes lavapipe minutes a model; without this there are two of them.
EVERY_TYPE = os.environ.get("PYLLAMA_TEST_EVERY_TYPE") == "1"
DRIVER = """
print(*(device.description for device in pyllama.devices() if device.name == "Vulkan0"))
"""


@pytest.fixture(scope="module")
def vulkan(pin: str | None, child: Callable[..., Any], tiny_model: Callable[[str], Path]) -> dict[str, str]:
    """The environment of processes that compute on Vulkan."""
    lacking = needs.missing(backends.table()["vulkan"], find_compilers())
    if lacking:
        _skip("it needs " + ", ".join(lack.need.name for lack in lacking))
    build = make_build(pin, "all", backends=["vulkan"])
    env = {"PYLLAMA_BUILD": str(build.folder), "PYLLAMA_BACKENDS": "vulkan", "GGML_VK_VISIBLE_DEVICES": "0"}
    told = child(WHERE, tiny_model("attention"), **env).stdout.strip()
    if told == "no device":
        _skip("no device is here: apt-get install mesa-vulkan-drivers")
    assert told == "used"
    return env


@pytest.fixture(scope="module")
def flash_attention(child: Callable[..., Any], vulkan: dict[str, str]) -> bool:
    """Whether the driver is trusted with it: lavapipe of Mesa 22.3 may crash, in stock builds too."""
    return "llvmpipe" not in child(DRIVER, **vulkan).stdout


@pytest.mark.parametrize("kind", KINDS)
def test_exact_on_vulkan(
    child: Callable[..., Any],
    tiny_model: Callable[[str], Path],
    patched_build: Any,
    vulkan: dict[str, str],
    flash_attention: bool,
    kind: str,
) -> None:
    options = f"flash_attention={flash_attention}, all_types={EVERY_TYPE}"
    code = CODE.replace("rows(sys.argv[1])", f"rows(sys.argv[1], {options})")
    least = (30 if EVERY_TYPE else 8) // (1 if flash_attention else 2)
    check(child(code, tiny_model(kind), **vulkan), patched_build.pin, kind, DEVICE, least)


@pytest.mark.parametrize("way", ["async", "graph", "staged"])
@pytest.mark.parametrize("kind", ["attention", "hybrid"])
def test_every_way_of_copying_is_exact(
    child: Callable[..., Any],
    tiny_model: Callable[[str], Path],
    patched_build: Any,
    vulkan: dict[str, str],
    flash_attention: bool,
    kind: str,
    way: str,
) -> None:
    options = f"rows(sys.argv[1], all_types=False, flash_attention={flash_attention})"
    few = CODE.replace("rows(sys.argv[1])", options)
    rows = json.loads(child(few, tiny_model(kind), LLAMA_STATE_COPY=way, **vulkan).stdout.splitlines()[-1])
    assert len(rows) == (8 if flash_attention else 4)
    assert not [row for row in rows if row["refused"]]
    assert not wrong(rows, patched_build.pin, kind)

"""`Model(devices=…)` and where layers go, on what every machine has. Servers: test_rpc.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pyllama
from pyllama.errors import UsageError


def generated(path: Path, **options: Any) -> tuple[int, ...]:
    with pyllama.Model(path, **options) as model:
        return pyllama.generate(model, "Once upon a time", max_tokens=8, temperature=0).tokens


@pytest.mark.parametrize("devices", [["CPU"], ["cpu"], [], ()])
def test_cpu_alone(devices: list[str], test_model: Path) -> None:
    assert generated(test_model, devices=devices) == generated(test_model)


def test_name_that_is_not_there(test_model: Path) -> None:
    with pytest.raises(UsageError, match=r"no device 'Vulkan9', but .*CPU.*`pyllama devices --explain`"):
        pyllama.Model(test_model, devices=["Vulkan9"])


def test_named_twice(test_model: Path) -> None:
    with pytest.raises(UsageError, match="device CPU is named twice"):
        pyllama.Model(test_model, devices=["CPU", "cpu"])


def test_a_string_is_no_list(test_model: Path) -> None:
    with pytest.raises(UsageError, match=r"one string: give a list of names, like \['CPU'\]"):
        pyllama.Model(test_model, devices="CPU")


@pytest.mark.parametrize("split", [[0.0], [-1.0, 2.0], [], [1.0] * 1000, [float("nan")]])
def test_no_split(split: list[float], test_model: Path) -> None:
    with pytest.raises(UsageError, match=r"tensor_split=\[.*is no split"):
        pyllama.Model(test_model, tensor_split=split)


@pytest.mark.matrix
@pytest.mark.parametrize("mode", ["none", "layer", "ROW", 1])
def test_split_mode(mode: str | int, test_model: Path) -> None:
    assert len(generated(test_model, devices=["CPU"], tensor_split=[1.0], split_mode=mode, main_gpu=0)) == 8


@pytest.mark.parametrize("mode", ["columns", "", 99])
def test_no_split_mode(mode: str | int, test_model: Path) -> None:
    with pytest.raises(UsageError, match=r"split_mode=.* is not one of none, layer, row"):
        pyllama.Model(test_model, split_mode=mode)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--device", "Vulkan9"], 2, "there is no device 'Vulkan9'"),
        (["--device", "CPU,CPU"], 2, "named twice"),
        (["--rpc", "nonsense:port"], 2, "is not an endpoint"),
    ],
)
def test_run_command(args: list[str], code: int, words: str, command_line: Any, test_model: Path) -> None:
    done = command_line("run", "-m", test_model, "-n", "1", *args)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ") and words in done.stderr and done.stderr.count("\n") == 1


def test_run_on_the_cpu(command_line: Any, test_model: Path) -> None:
    done = command_line("run", "-m", test_model, "-n", "2", "--temp", "0", "--device", "CPU")
    assert (done.returncode, done.stderr) == (0, "")

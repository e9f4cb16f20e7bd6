"""A contract that is not kept fails the build."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from real_builds import TestBuild

from pyllama.builder.paths import locate
from pyllama.builder.stack import series
from pyllama.builder.stack.features import Contract, Needle, Symbol
from pyllama.builder.verify import contract
from pyllama.errors import PatchError
from pyllama.native import installed


def test_our_own_are_kept(patched_build: TestBuild) -> None:
    for feature in series.load(locate().patches).features:
        contract.check(feature, patched_build.pin, patched_build.tree, patched_build.folder)


def test_stock_keeps_none_of_them(patched_build: TestBuild, stock_build: TestBuild) -> None:
    for feature in series.load(locate().patches).features:
        if feature.at(stock_build.pin).kind != "hooks":
            continue
        with pytest.raises(PatchError, match=feature.name):
            contract.check(feature, stock_build.pin, stock_build.tree, stock_build.folder)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Contract(needles=(Needle("src/llama.cpp", "no such text"),)), "src/llama.cpp lacks 'no such text'"),
        (Contract(needles=(Needle("no/such.cpp", "x"),)), "no/such.cpp lacks"),
        (Contract(headers=("include/llama-no-such.h",)), "include/llama-no-such.h"),
        (Contract(symbols=(Symbol("llama", "llama_no_such"),)), "llama_no_such is not in llama"),
        (Contract(symbols=(Symbol("ggml-base", "llama_decode"),)), "llama_decode is not in ggml-base"),
        (Contract(macros=("LLAMA_NO_SUCH",)), "the macro LLAMA_NO_SUCH"),
    ],
)
def test_what_is_missing_is_named(patched_build: TestBuild, broken: Contract, message: str) -> None:
    feature = replace(series.load(locate().patches).features[0], contract=broken)
    with pytest.raises(PatchError, match=message):
        contract.check(feature, patched_build.pin, patched_build.tree, patched_build.folder)


def test_builder_and_runtime_agree_on_the_schema(patched_build: TestBuild) -> None:
    info = json.loads((Path(patched_build.folder) / "build.json").read_text())
    assert info["schema"] == installed.SCHEMA

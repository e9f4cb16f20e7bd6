"""What a build says of itself: patches that apply, trees that they give, whose work is inside."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from real_builds import TestBuild, elf_only
from throwaway import PIN, World, change, changed, make_world

from pyllama.builder import provenance, third_party
from pyllama.builder.pins import GithubSource, Pin
from pyllama.builder.provenance import Provenance
from pyllama.builder.stack.export import export
from pyllama.builder.stack.features import select
from pyllama.errors import BuildError


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path)
    world.feature("one", {"a.patch": change(3, "first")}, {"src/one.h": "int one;\n"})
    world.feature("theirs", pin='upstream = "it has it"')
    world.feature("two", {"b.patch": change(3, "second", changed(3, "first"))}, requires=["one"])
    latin = world.feature("three", {"c.patch": change(20, "third")}, {"src/three.h": ""})
    (latin / "files/src/three.h").write_bytes(b"// \xe4, as it was before UTF-8\n")
    return world


def pin_of(world: World) -> Pin:
    return Pin(PIN, "c" * 40, world.tree, "2026-10-01", "a test", github=GithubSource("ggml-org/llama.cpp"))


def write(world: World, out: Path, wanted: str | list[str] = "all") -> Provenance:
    chosen = select(world.stack(), PIN, wanted)
    (out / "lib").mkdir(parents=True)
    return provenance.write(out, pin_of(world), chosen, world.apply(wanted), world.store)


def test_the_patches_give_the_trees_that_are_named(world: World, tmp_path: Path) -> None:
    """With git itself, from the pristine files, one after the other."""
    held = write(world, tmp_path / "out")
    assert [row.name for row in held.features] == ["one", "theirs", "two", "three"]
    assert [row.patch for row in held.features] == [
        "patches/0001-one.patch",
        "",
        "patches/0002-two.patch",
        "patches/0003-three.patch",
    ]
    tree = tmp_path / "tree"
    shutil.copytree(world.root / "upstream", tree)
    for row in held.features:
        if row.patch:
            (tree / ".git").mkdir()  # T1: in a folder of no repository git applies nothing and says nothing
            subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
            subprocess.run(["git", "apply", tmp_path / "out" / row.patch], cwd=tree, check=True)
            shutil.rmtree(tree / ".git")
        assert world.store.add(tree) == row.tree, row.name
    assert held.tree == held.features[-1].tree == world.apply().tree


def test_a_patch_is_the_quilt_export_of_its_feature(world: World, tmp_path: Path) -> None:
    held = write(world, tmp_path / "out")
    chosen = select(world.stack(), PIN, "all")
    export(PIN, world.tree, chosen, world.store, "quilt", tmp_path / "quilt")
    for row in held.features:
        if row.patch:
            data = (tmp_path / "out" / row.patch).read_bytes()
            assert data == (tmp_path / "quilt" / f"{row.name}.patch").read_bytes()
            assert hashlib.sha256(data).hexdigest() == row.sha256


def test_it_reads_what_it_wrote_and_writes_the_same_twice(world: World, tmp_path: Path) -> None:
    held = write(world, tmp_path / "out")
    assert provenance.read(tmp_path / "out") == held
    write(world, tmp_path / "again")
    files = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.*"))
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_what_is_added_later_is_told_and_leaves_the_build_as_it_was(world: World, tmp_path: Path) -> None:
    """A library that comes with one of upstream's programs."""
    out = tmp_path / "out"
    write(world, out)
    before = (out / "provenance.json").read_bytes()
    shutil.copy2(sys.executable, out / "lib" / "libmore.so")  # any ELF file
    provenance.add(out, tmp_path / "tree")
    held = provenance.read(out)
    assert [row.file for row in held.libraries] == ["lib/libmore.so"]
    assert any("libc" in name for name in held.libraries[0].needs)
    assert (out / "provenance.json").read_bytes() == before
    (out / "provenance-added.json").write_text("{}")
    with pytest.raises(BuildError, match="cannot be read"):
        provenance.read(out)


def test_stock_has_no_patches(world: World, tmp_path: Path) -> None:
    held = write(world, tmp_path / "out", "none")
    assert held.features == () and held.tree == world.tree
    assert not (tmp_path / "out" / "patches").exists()
    assert provenance.read(tmp_path / "out") == held


def test_another_tree_than_the_compiled_one_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    patched = replace(world.apply(), tree="0" * 40)
    chosen = select(world.stack(), PIN, "all")
    with pytest.raises(BuildError, match=r"but 0000.* was compiled"):
        provenance.write(tmp_path / "out", pin_of(world), chosen, patched, world.store)


DAMAGE: dict[str, Any] = {
    "no object": lambda table: [table],
    "another schema": lambda table: {**table, "schema": 2},
    "no tree": lambda table: {k: v for k, v in table.items() if k != "tree"},
    "a number for a tree": lambda table: {**table, "tree": 3},
    "no upstream": lambda table: {**table, "upstream": None},
    "a text for features": lambda table: {**table, "features": "view-copy"},
    "a feature without a title": lambda table: {**table, "features": [{"name": "x"}]},
    "a text for origins": lambda table: {
        **table,
        "features": [{**table["features"][0], "origin": "#1"}],
    },
    "a number for a library": lambda table: {**table, "libraries": [{"file": 1, "needs": []}]},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_sentence(damage: str, world: World, tmp_path: Path) -> None:
    write(world, tmp_path / "out")
    path = tmp_path / "out" / "provenance.json"
    path.write_text(json.dumps(DAMAGE[damage](json.loads(path.read_text()))))
    with pytest.raises(BuildError, match=r"provenance\.json cannot be read \(.*\): build or install"):
        provenance.read(tmp_path / "out")


@pytest.mark.parametrize("text", [None, "", "{", "\xff"])
def test_a_cut_or_missing_file_is_one_sentence(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "provenance.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BuildError, match=r"provenance\.json cannot be read"):
        provenance.read(tmp_path)


def test_a_patch_that_was_edited_is_refused(world: World, tmp_path: Path) -> None:
    write(world, tmp_path / "out")
    path = tmp_path / "out" / "patches" / "0002-two.patch"
    good = path.read_bytes()
    path.write_bytes(good.replace(b"+second", b"+evil"))
    with pytest.raises(BuildError, match=r"0002-two\.patch is not the patch of this build"):
        provenance.read(tmp_path / "out")
    path.unlink()
    with pytest.raises(BuildError, match=r"0002-two\.patch is not the patch of this build"):
        provenance.read(tmp_path / "out")


def test_work_of_others_counts_where_source_and_library_have_it(tmp_path: Path) -> None:
    build, tree = tmp_path / "build", tmp_path / "tree"
    work = third_party.WORKS[0]
    (build / "lib").mkdir(parents=True)
    library = build / "lib" / "libggml-cpu.so"
    library.write_bytes(b"llamafile_sgemm\0")
    source = tree / work.source
    source.parent.mkdir(parents=True)
    source.write_text(f"{work.says}\n//\n// Permission is hereby granted, …\n\n// Not a licence.\nint x;\n")
    assert list(third_party.held(tree, build)) == [(work, library)]
    assert third_party.notice(tree, work).splitlines() == [
        "Copyright 2024 Mozilla Foundation",
        "",
        "Permission is hereby granted, …",
    ]
    library.write_bytes(b"compiled without it")
    assert not list(third_party.held(tree, build))
    library.write_bytes(b"llamafile_sgemm\0")
    source.write_text("// Written anew.\n")
    assert not list(third_party.held(tree, build)) and third_party.notice(tree, work) == ""
    library = library.rename(build / "lib" / "libggml-cpu-zen4.so")
    assert list(third_party.held(tree, build)) == []  # the source says nothing any more
    source.write_text(f"{work.says}\n")
    assert list(third_party.held(tree, build)) == [(work, library)]
    library.unlink()
    source.write_text(work.says)
    assert not list(third_party.held(tree, build))


@pytest.mark.parametrize(
    "work", [work for work in third_party.WORKS if work.outside], ids=lambda work: work.name
)
def test_headers_of_others_bring_their_licence_with_them(work: third_party.Work, tmp_path: Path) -> None:
    """They are not in upstream's tree, which only includes them."""
    build, source = tmp_path / "build", tmp_path / "tree" / work.source
    (build / "lib").mkdir(parents=True)
    library = build / "lib" / f"lib{work.library}.so"
    library.touch()
    source.parent.mkdir(parents=True)
    source.write_text(f"{work.says}\n")
    assert list(third_party.held(tmp_path / "tree", build)) == [(work, library)]
    text = third_party.notice(tmp_path / "tree", work)
    assert "Apache License" in text and "Copyright" in text


def test_some_code_is_compiled_for_some_machines(patched_build: TestBuild) -> None:
    def names(machine: str) -> set[str]:
        return {work.name for work, _ in third_party.held(patched_build.tree, patched_build.folder, machine)}

    assert names("x86_64") - names("riscv64") == {"optimized-routines"}


@pytest.mark.matrix
def test_every_row_is_true_of_the_pin(patched_build: TestBuild) -> None:
    """A row that upstream has rewritten would drop out unseen."""
    here = [work for work in third_party.WORKS if (patched_build.tree / work.source).is_file()]
    for work in here:
        source = patched_build.tree / work.source
        assert work.says in source.read_text(encoding="utf-8", errors="replace"), work.name
    held = [work for work, _ in third_party.held(patched_build.tree, patched_build.folder, "x86_64")]
    assert held == [work for work in here if not work.outside or work in held]
    assert {"llamafile", "ggllm.cpp", "jsonhpp"} <= {work.name for work in here}


@pytest.mark.matrix
def test_nothing_of_vendor_is_in_the_core(patched_build: TestBuild) -> None:
    """What `third_party` says of upstream's vendor/: no source of the core includes it."""
    headers = {
        path.name for path in (patched_build.tree / "vendor").rglob("*") if path.suffix in (".h", ".hpp")
    }
    assert "json.hpp" in headers
    places = [patched_build.tree / name for name in ("src", "include", "ggml/include", "ggml/src/ggml-cpu")]
    sources = [path for place in places for path in place.rglob("*") if path.suffix in (".c", ".cpp", ".h")]
    sources += (patched_build.tree / "ggml/src").glob("*.*")
    assert len(sources) > 100
    for path in sources:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        included = {line.rpartition("/")[2].strip(' <>"\t') for line in lines if line.startswith("#include")}
        assert not included & headers, path


@elf_only
@pytest.mark.matrix
def test_a_real_build_names_its_libraries_and_what_they_need(patched_build: TestBuild) -> None:
    held = provenance.read(patched_build.folder)
    needs = {row.file: row.needs for row in held.libraries}
    assert set(needs) >= {
        *("lib/libllama.so", "lib/libggml.so", "lib/libggml-base.so", "lib/libggml-cpu.so"),
        "python/_pyllama.abi3.so",
    }
    assert {"libggml.so", "libggml-base.so", "libc.so.6"} <= set(needs["lib/libllama.so"])
    listed = json.loads((patched_build.folder / "build.json").read_text())["files"]
    files = {row.patch for row in held.features} | {row.notice for row in held.third_party}
    assert files - {""} | {"provenance.json"} <= set(listed)

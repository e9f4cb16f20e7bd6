"""An upstream in C, revisions of it, and a stack that is rebased onto them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from throwaway import PIN, World, diff, make_world

from pyllama.builder import project
from pyllama.builder.pins import Pin
from pyllama.builder.progress import Reporter
from pyllama.builder.rebase.rebase import rebase
from pyllama.builder.rebase.report import Place, Report
from pyllama.builder.rebase.revisions import bring

CACHE = "src/cache.cpp"
CODE = """\
#include "cache.h"
#include "log.h"

static size_t cache_row_size(const struct cache * cache, int il) {
    const struct layer * layer = cache->layers[il];
    return layer->n_embd * sizeof(float);
}

bool cache_init(struct cache * cache, size_t n_cells) {
    cache->head = 0;
    cache->size = n_cells;
    cache->cells.clear();
    cache->cells.resize(n_cells);
    return true;
}

void cache_clear(struct cache * cache) {
    for (size_t i = 0; i < cache->size; ++i) {
        cache->cells[i].pos = -1;
        cache->cells[i].seq_id.clear();
    }
    cache->head = 0;
}

int cache_find(const struct cache * cache, int pos) {
    for (size_t i = 0; i < cache->size; ++i) {
        if (cache->cells[i].pos == pos) {
            return (int) i;
        }
    }
    return -1;
}

size_t cache_total_size(const struct cache * cache) {
    size_t total = 0;
    for (int il = 0; il < cache->n_layer; ++il) {
        total += cache_row_size(cache, il) * cache->size;
    }
    return total;
}
"""
UPSTREAM = {
    CACHE: CODE,
    "src/log.cpp": "".join(f"void log_line_{n}(void);\n" for n in range(1, 21)),
    "include/llama.h": "#pragma once\nint llama_init(void);\n",
    "CMakeLists.txt": "add_library(llama\n    cache.cpp\n    log.cpp\n    model.cpp)\n",
    "README.md": "a project\n",
    "LICENSE": "a licence\n",
}
LOCK = """default = "{name}"
[[pin]]
name = "{name}"
commit = "1111111111111111111111111111111111111111"
tree = "{tree}"
date = "2026-01-01"
why = "a test"
"""


def with_line(code: str, before: str, *lines: str) -> str:
    """Return `code` with lines in front of the piece `before`, which must be there once."""
    assert code.count(before) == 1, before
    return code.replace(before, "".join(f"{line}\n" for line in lines) + before)


def swapped(code: str, old: str, new: str) -> str:
    """Return `code` with one piece of it, which must be there once, replaced."""
    assert code.count(old) == 1, old
    return code.replace(old, new)


def hook(new: str, old: str = CODE, path: str = CACHE) -> str:
    """Return the diff of one file."""
    return diff(path, old, new)


def fresh(root: Path) -> World:
    """A world with the upstream above, a lock and an empty series."""
    world = make_world(root, UPSTREAM)
    world.paths.vendor.mkdir()
    world.paths.pins.write_text(LOCK.format(name=PIN, tree=world.tree), encoding="utf-8")
    return world


def revision(world: World, name: str, changes: Mapping[str, str | None]) -> Path:
    """Make a folder with a revision of upstream: other files, or None for one that is gone."""
    folder = world.root / name
    for path, text in {**UPSTREAM, **changes}.items():
        if text is not None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    return folder


def onto(world: World, changes: Mapping[str, str | None], name: str = "newer") -> Report:
    """Rebase the world's whole stack onto a revision with other files."""
    opened = project.load(world.paths)
    folder = revision(world, name, changes)
    pin: Pin = opened.pin()
    with world.store.overlay() as store:
        found = bring(str(folder), opened, store, Reporter(quiet=True))
        return rebase(opened.stack.features, pin, found, store)


def onto_code(world: World, code: str) -> Report:
    """Rebase the stack onto a revision with other code."""
    return onto(world, {CACHE: code})


def places(report: Report, feature: str) -> list[Place]:
    """Return the hunks of a feature."""
    return list(report[feature].hunks)


def words(report: Report) -> dict[str, str]:
    """Return the outcomes by feature."""
    return {row.feature: row.outcome for row in report.features}

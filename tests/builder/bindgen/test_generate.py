"""The generator on small headers that hold every oddity of the real ones, and a library to call."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import itertools
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pyllama.builder.bindgen import csource, generate
from pyllama.builder.bindgen.headers import Exceptions, read
from pyllama.errors import BindingsError

LLAMA_H = """
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#define API __attribute__((visibility("default"))) extern
#define LLAMA_MAGIC 0x67676d6cu
#define LLAMA_NAME "name"
#define LLAMA_ALIAS LLAMA_MAGIC
#define LLAMA_MINUS (-1)
#define LLAMA_CALL(x) ((x) + 1)
#define LLAMA_EXPR API
#ifdef __cplusplus
extern "C" {
#endif
struct llama_model;
typedef struct llama_model * llama_model_t;
typedef int32_t llama_token;
enum llama_kind { LLAMA_KIND_A = 1, LLAMA_KIND_B = 1 << 4, LLAMA_KIND_C };
enum llama_pooling { LLAMA_POOLING_X = 7 };
struct llama_params {
    int32_t n; enum llama_kind kind; bool async; float f[3];
    int32_t ops[64 / sizeof(int32_t)];
    union { int64_t i; double d; };
};
static const size_t LLAMA_SIZE = sizeof(struct llama_params);
API struct llama_params llama_default(void);
API int64_t llama_sum(struct llama_params p, const llama_token * tokens, size_t n);
API enum llama_pooling llama_pooling(const struct llama_model * model);  // a tag and a function
API llama_model_t llama_open(const char * path, llama_model_t parent);
API void llama_nowhere(int lambda, int);
API void llama_print(FILE * out);
API const char * llama_name(void) __attribute__((deprecated("x")));
static inline int llama_twice(int x) { return 2 * x; }
#ifdef __cplusplus
}
#endif
"""
OTHER_H = """
#pragma once
#include "llama.h"
typedef struct llama_model * llama_model_t;
typedef void (*llama_callback)(int level, const char * restrict text, void * user);
API int llama_call(llama_callback call, void * user);
API void llama_nowhere(int lambda, int);
"""
SOURCE = """
#include "other.h"
#include <string.h>
struct llama_model { int x; };
static struct llama_model the_model;
struct llama_params llama_default(void) {
    struct llama_params p; memset(&p, 0, sizeof p);
    p.n = 3; p.kind = LLAMA_KIND_B; p.async = true; p.ops[15] = 9; p.d = 2.5; return p;
}
int64_t llama_sum(struct llama_params p, const llama_token * tokens, size_t n) {
    int64_t sum = p.n; for (size_t i = 0; i < n; i++) sum += tokens[i]; return sum;
}
enum llama_pooling llama_pooling(const struct llama_model * model) { return model ? LLAMA_POOLING_X : 0; }
llama_model_t llama_open(const char * path, llama_model_t parent) { return path ? &the_model : parent; }
void llama_print(FILE * out) { fputs("x", out); }
const char * llama_name(void) { return "n"; }
int llama_call(llama_callback call, void * user) { call(2, "hello", user); return 1; }
const char * pyllama_identity(void) { return "library"; }
"""

_count = itertools.count()


@pytest.fixture(scope="module")
def include(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("include")
    (folder / "llama.h").write_text(LLAMA_H)
    (folder / "other.h").write_text(OTHER_H)
    return folder


@pytest.fixture(scope="module")
def made(include: Path, tmp_path_factory: pytest.TempPathFactory) -> generate.Bindings:
    return generate.generate(include, tmp_path_factory.mktemp("out"), "cc", 'a "quoted" identity')


@pytest.fixture(scope="module")
def module(made: generate.Bindings, include: Path, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    folder = tmp_path_factory.mktemp("lib")
    (folder / "x.c").write_text(SOURCE)
    library = folder / "libx.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", f"-I{include}", str(folder / "x.c"), "-o", str(library)], check=True
    )
    loader = importlib.machinery.ExtensionFileLoader(generate.MODULE, str(made.module))
    spec = importlib.util.spec_from_file_location(generate.MODULE, made.module, loader=loader)
    assert spec is not None
    found = importlib.util.module_from_spec(spec)
    loader.exec_module(found)
    error = found.ffi.new("char[]", 200)
    handle = found.lib.pyllama_open(str(library).encode(), error, 200)
    assert handle != found.ffi.NULL, found.ffi.string(error)
    assert found.lib.pyllama_identity_of(handle) != found.ffi.NULL
    assert found.lib.pyllama_table_bind(handle) == 7
    assert found.lib.pyllama_table_bind(handle) == 0  # all that can be bound is
    return found


def test_calls_and_structs(module: ModuleType) -> None:
    ffi, lib = module.ffi, module.lib
    params = lib.llama_default()
    assert (params.n, params.kind, getattr(params, "async")) == (3, 16, True)
    assert (params.ops[15], params.d) == (9, 2.5)
    assert len(params.ops) == 16
    params.n = 10
    assert lib.llama_sum(params, [1, 2, 3], 3) == 16
    model = lib.llama_open(b"x", ffi.NULL)
    assert lib.llama_pooling(model) == lib.LLAMA_POOLING_X == 7
    assert ffi.string(lib.llama_name()) == b"n"
    assert lib.llama_twice(21) == 42  # inline: called directly, there is nothing to look up


def test_constants(module: ModuleType) -> None:
    lib = module.lib
    assert lib.LLAMA_MAGIC == lib.LLAMA_ALIAS == 0x67676D6C
    assert lib.LLAMA_MINUS == -1
    assert module.ffi.string(lib.LLAMA_NAME) == b"name"
    assert (lib.LLAMA_KIND_B, lib.LLAMA_KIND_C) == (16, 17)
    assert module.ffi.sizeof("struct llama_params") == lib.LLAMA_SIZE
    assert not hasattr(lib, "LLAMA_CALL")


def test_function_pointers_both_ways(module: ModuleType) -> None:
    seen: list[tuple[int, bytes]] = []

    def heard(level: int, text: Any, _: Any) -> None:
        seen.append((level, module.ffi.string(text)))

    call = module.ffi.callback("llama_callback", heard)
    assert module.lib.llama_call(call, module.ffi.NULL) == 1
    assert seen == [(2, b"hello")]
    assert module.ffi.addressof(module.lib, "llama_name")() != module.ffi.NULL


def test_table_knows_what_is_not_there(module: ModuleType) -> None:
    ffi, lib = module.ffi, module.lib
    names = [ffi.string(lib.pyllama_table_name(i)).decode() for i in range(lib.pyllama_table_size())]
    unbound = [name for i, name in enumerate(names) if not lib.pyllama_table_bound(i)]
    assert unbound == ["llama_nowhere"]
    assert names.count("llama_nowhere") == 1  # declared twice
    assert lib.pyllama_table_name(len(names)) == ffi.NULL
    assert not lib.pyllama_table_bound(len(names))
    assert ffi.string(lib.pyllama_module_identity()) == b'a "quoted" identity'


def test_stubs(made: generate.Bindings) -> None:
    text = made.stubs.read_text()
    assert "def llama_open(path: bytes | Any, parent: llama_model_p, /) -> llama_model_p: ..." in text
    assert "def llama_default() -> llama_params: ..." in text
    assert "def llama_nowhere(lambda_: int, arg1: int, /) -> None: ..." in text
    assert "LLAMA_KIND_B: int" in text
    assert "# async: a Python keyword" in text
    compile(text, "lib.pyi", "exec")


def test_declared(made: generate.Bindings) -> None:
    listed = json.loads(made.declared.read_text())
    assert listed["functions"]["llama_call"] == "other.h"
    assert set(listed["functions"]) >= {"llama_sum", "llama_twice", "llama_nowhere"}
    assert made.functions == 8  # all but the inline one


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("#error no", "cannot be read as C"),
        ("#include <vector>\n", "cannot be read as C"),
        ("void f(int x, ...);", "f in odd.h is variadic: list it"),
        ("int f(;", "cannot be parsed"),
    ],
)
def test_what_cannot_be_bound_is_an_error(tmp_path: Path, header: str, message: str) -> None:
    (tmp_path / "llama.h").write_text(LLAMA_H)
    (tmp_path / "odd.h").write_text(header)
    with pytest.raises(BindingsError, match=message):
        generate.generate(tmp_path, tmp_path / "out", "cc", "x")


def test_no_headers(tmp_path: Path) -> None:
    with pytest.raises(BindingsError, match=r"no llama\.h"):
        generate.generate(tmp_path, tmp_path / "out", "cc", "x")


def test_python_headers_are_asked_for(include: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(BindingsError, match="python3-dev"):
        generate.generate(include, tmp_path / "out", "cc", "x")


def test_system_types_do_not_leak(include: Path) -> None:
    exceptions = Exceptions.read()
    text = csource.cdef(read(include, "cc", exceptions), exceptions)
    assert "typedef int FILE" not in text and "typedef int size_t" not in text
    assert text.count("typedef struct llama_model *llama_model_t") == 1

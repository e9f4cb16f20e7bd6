// The C side of pyllama.native: loading libraries, collecting log lines, stopping a decode.
// A change here that the Python layer relies on moves SCHEMA in builder/plan.py and native/installed.py.
// Compiled into the cffi module; nothing here links to llama.cpp.

#pragma once

#include <stdbool.h>
#include <stddef.h>

// Open a shared library. Returns NULL and writes the system's words to `error` on failure.
void *pyllama_open(const char *path, char *error, size_t size);

// Address of `name` in `library` or in what it depends on; NULL when it is not there.
void *pyllama_symbol(void *library, const char *name);

// What `library` itself says it was built from; NULL for a library that is not ours.
const char *pyllama_identity_of(void *library);

// Path of the file that the address was loaded from; false when it is not known.
bool pyllama_origin(void *address, char *path, size_t size);

// Call `ggml_backend_score` of an opened plug-in: 0 means that this machine cannot run it,
// -1 that the plug-in has no score.
int pyllama_score(void *library);

// For llama_log_set: joins continued lines, keeps the latest warnings and errors, and hands
// what is at or above the threshold to the sink.
void pyllama_log(int level, const char *text, void *user_data);
void pyllama_log_set_threshold(int level);
void pyllama_log_set_sink(void (*sink)(int level, const char *line));

// A mark in the stream of kept lines, and the lines kept since then that this thread caused,
// newest last, joined by newlines. Returns the number of bytes written without the NUL.
size_t pyllama_log_mark(void);
size_t pyllama_log_since(size_t mark, char *out, size_t size);

// Index of the first of the largest of `n` numbers, 1 at least: llama.cpp's greedy sampler, without the array of
// candidates that it is given.
int pyllama_largest(const float *numbers, int n);

// For llama_set_abort_callback, by callers of the C API (the Python layer sets none yet): true once
// `*flag` is not zero. Never calls into Python.
bool pyllama_abort(void *flag);

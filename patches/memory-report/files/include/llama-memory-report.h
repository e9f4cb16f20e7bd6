// What a context and its model have allocated, by type of buffer: upstream's breakdown, which is C++, for C.

#pragma once

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

// Bytes of one type of buffer.
struct llama_memory_report_row {
    const char * buffer_type; // ggml's name; valid as long as the process
    const char * device;      // name of the device that owns it, NULL for none
    bool         host;        // whether it is host memory
    size_t       model;       // weights
    size_t       context;     // KV cells, recurrent state, saved states
    size_t       compute;     // intermediate results
};

// Write at most n rows. Returns how many there are.
LLAMA_API size_t llama_memory_report(const struct llama_context * ctx, struct llama_memory_report_row * rows, size_t n);

#ifdef __cplusplus
}
#endif

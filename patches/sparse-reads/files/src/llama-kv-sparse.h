#pragma once

#include "ggml.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

// How many cells of a cache can take part in a token's attention: kernels that gather them need a bound. It travels in
// the mask, as an operation's parameter that nothing else uses there, so that it comes with every graph that has the mask.

// Fewer cells than these are not worth a gather, to any of the kernels; nor are those of which more than half take part.
static constexpr uint32_t LLAMA_KV_SPARSE_MIN = 4096;
// More tokens at once are better off with kernels that read a tile of cells for all of them. Not every backend looks at that.
static constexpr uint32_t LLAMA_KV_SPARSE_TOKENS = 8;

// `n_seq`: cells of the sequence that has most of them, among those whose tokens are computed now; 0: unknown. `n_tokens`: in a stream.
// Returns a power of two, so that graphs are used again, or 0 where all `n_kv` are to be read.
static inline int32_t llama_kv_sparse_bound(uint32_t n_kv, uint32_t n_seq, uint32_t n_tokens) {
    static const bool off = [] {
        const char * value = getenv("LLAMA_KV_SPARSE_READS");
        return value && strcmp(value, "0") == 0;
    }();
    if (off || n_kv < LLAMA_KV_SPARSE_MIN || n_tokens > LLAMA_KV_SPARSE_TOKENS || n_seq == 0) {
        return 0;
    }
    uint32_t bound = 256;
    while (bound < n_seq) {
        bound *= 2;
    }

    return bound > n_kv/2 ? 0 : (int32_t) bound;
}

static inline int32_t llama_kv_sparse_get(const ggml_tensor * mask) {
    return mask && mask->op == GGML_OP_NONE ? mask->op_params[0] : 0;
}

static inline void llama_kv_sparse_set(ggml_tensor * mask, int32_t bound) {
    mask->op_params[0] = bound;
}

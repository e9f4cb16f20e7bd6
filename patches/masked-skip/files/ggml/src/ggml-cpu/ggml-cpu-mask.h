#pragma once

#include "ggml.h"

#include <cstdint>
#include <cstring>

// A row of an attention mask, f16: what is minus infinity takes no part in the sums.
static constexpr uint64_t GGML_MASK_DEAD4 = 0xfc00fc00fc00fc00; // four entries of minus infinity

// The first entry of [i, n) that takes part, or n.
static inline int64_t ggml_mask_next(const ggml_fp16_t * row, int64_t i, int64_t n) {
    constexpr int n_words = 8; // no branch inside, so that the compiler makes vectors of them
    while (i + 4*n_words <= n) {
        uint64_t words[n_words];
        memcpy(words, row + i, sizeof(words));
        uint64_t live = 0;
        for (int w = 0; w < n_words; ++w) {
            live |= words[w] ^ GGML_MASK_DEAD4;
        }
        if (live) {
            break;
        }
        i += 4*n_words;
    }
    uint16_t entry;
    while (i < n && (memcpy(&entry, row + i, sizeof(entry)), entry) == (uint16_t) GGML_MASK_DEAD4) {
        ++i;
    }
    return i;
}

// Whether [i, i + n) takes part in none of the rows.
static inline bool ggml_mask_dead(const char * rows, size_t row_stride, int n_rows, int64_t i, int64_t n) {
    for (int r = 0; r < n_rows; ++r) {
        if (ggml_mask_next((const ggml_fp16_t *) (rows + r*row_stride), i, i + n) < i + n) {
            return false;
        }
    }
    return true;
}

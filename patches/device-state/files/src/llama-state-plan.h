#pragma once

// Many small ranges of tensors, folded into few blocks of rows.

#include "ggml.h"

#include <cstddef>
#include <vector>

// Bytes of a tensor, as the memory modules name them.
struct llama_state_range {
    ggml_tensor * tensor;
    size_t        offset;
    size_t        size;
};

inline ggml_backend_buffer * llama_state_buffer_of(const ggml_tensor * tensor) {
    return tensor->view_src ? tensor->view_src->buffer : tensor->buffer;
}

// `count` rows of `width` bytes. They lie `pitch` bytes apart in the tensor and `packed_pitch` in packed memory.
struct llama_state_block {
    ggml_tensor * tensor;
    size_t        offset;
    size_t        pitch;
    size_t        packed;
    size_t        packed_pitch;
    size_t        width;
    size_t        count;
};

// Fold ranges into as few blocks as possible. Packed positions follow the order of the ranges, without gaps, so ranges
// that name the same bytes in other portions give blocks over the same packed memory.
std::vector<llama_state_block> llama_state_plan(const std::vector<llama_state_range> & ranges);

// Join blocks of one row each that follow each other in memory as they do when packed, though they are of several tensors.
// What comes out may reach past the end of its tensor, in the same buffer.
std::vector<llama_state_block> llama_state_join(const std::vector<llama_state_block> & blocks);

// Cut blocks so that no row crosses a multiple of `limit` in packed memory.
std::vector<llama_state_block> llama_state_cut(const std::vector<llama_state_block> & blocks, size_t limit);

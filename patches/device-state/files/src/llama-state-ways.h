#pragma once

// The ways to copy that `llama_state_copy` chooses from.

#include "llama-state-copy.h"

#include <utility>

// Rows in a buffer.
struct llama_state_rows {
    ggml_backend_buffer_t buffer;
    char *                data;
    size_t                pitch;
};

// Where the rows of a block come from, and where they go.
struct llama_state_ends {
    llama_state_rows src;
    llama_state_rows dst;
};

inline llama_state_ends llama_state_ends_of(const llama_state_block & block, const llama_state_memory & memory, llama_state_direction direction) {
    const ggml_tensor * chunk = memory.chunk(block.packed);

    const llama_state_rows live   = { llama_state_buffer_of(block.tensor), (char *) block.tensor->data + block.offset, block.pitch };
    const llama_state_rows packed = { chunk->buffer, (char *) chunk->data + memory.offset(block.packed), block.packed_pitch };

    return direction == llama_state_direction::SAVE ? llama_state_ends{ live, packed } : llama_state_ends{ packed, live };
}

// Whether tensors and memory are the host's, for the whole of the blocks.
bool llama_state_all_on_host(const std::vector<llama_state_block> & blocks, const llama_state_memory & memory);

void llama_state_copy_on_host(const std::vector<llama_state_block> & blocks, const llama_state_memory & memory, llama_state_direction direction);

// Returns false when the backend cannot; some of the rows may have been copied then.
bool llama_state_copy_by_graph(ggml_backend_t backend, const std::vector<llama_state_block> & blocks, const llama_state_memory & memory, llama_state_direction direction);

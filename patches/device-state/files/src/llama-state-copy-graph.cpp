#include "llama-state-ways.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cstdint>

// Nodes in one graph.
static constexpr size_t MAX_NODES = 1024;

// Rows that a contiguous range is shown as, so that threads can share it.
static constexpr size_t ROW_BYTES = 4096;

static size_t gcd(size_t a, size_t b) {
    return b == 0 ? a : gcd(b, a % b);
}

// Copies of integers are exact whatever the tensor's type is; of quantized types they are not on every device.
static bool word_type(const llama_state_rows & src, const llama_state_rows & dst, size_t width, ggml_type & type, size_t & size) {
    const size_t all = (uintptr_t) src.data | (uintptr_t) dst.data | src.pitch | dst.pitch | width;

    if (all % 4 == 0) {
        type = GGML_TYPE_I32;
        size = 4;
        return true;
    }
    if (all % 2 == 0) {
        type = GGML_TYPE_I16;
        size = 2;
        return true;
    }
    return false;
}

static ggml_tensor * strided(ggml_context * ctx, const llama_state_rows & rows, ggml_type type, size_t word, size_t width, size_t count) {
    ggml_tensor * t = ggml_new_tensor_2d(ctx, type, (int64_t) (width/word), (int64_t) count);

    t->buffer = rows.buffer;
    t->data   = rows.data;
    t->nb[1]  = count > 1 ? rows.pitch : width;
    t->nb[2]  = t->nb[1]*count;
    t->nb[3]  = t->nb[2];

    return t;
}

static bool compute_copies(
        ggml_backend_t            backend,
        const llama_state_block * blocks,
        size_t                    n_blocks,
        const llama_state_memory & memory,
        llama_state_direction     direction) {
    const ggml_init_params params = {
        /*.mem_size   =*/ 3*n_blocks*ggml_tensor_overhead() + ggml_graph_overhead_custom(2*n_blocks + 1, false),
        /*.mem_buffer =*/ NULL,
        /*.no_alloc   =*/ true,
    };

    ggml_context_ptr ctx(ggml_init(params));
    if (!ctx) {
        return false;
    }

    // sources are no nodes but count as leafs
    ggml_cgraph * graph = ggml_new_graph_custom(ctx.get(), 2*n_blocks + 1, false);

    for (size_t i = 0; i < n_blocks; ++i) {
        llama_state_block block = blocks[i];

        auto [src, dst] = llama_state_ends_of(block, memory, direction);

        if (block.count == 1) {
            block.width = gcd(blocks[i].width, ROW_BYTES);
            if (block.width < 64) {
                block.width = blocks[i].width;
            }
            block.count = blocks[i].width/block.width;
            src.pitch   = block.width;
            dst.pitch   = block.width;
        }

        ggml_type type;
        size_t    word;
        if (!word_type(src, dst, block.width, type, word)) {
            return false;
        }

        ggml_tensor * node = ggml_cpy(ctx.get(),
                strided(ctx.get(), src, type, word, block.width, block.count),
                strided(ctx.get(), dst, type, word, block.width, block.count));

        // without this some devices leave the node out, and do not say so
        if (ggml_backend_view_init(node) != GGML_STATUS_SUCCESS || !ggml_backend_supports_op(backend, node)) {
            return false;
        }

        ggml_build_forward_expand(graph, node);
    }

    return ggml_backend_graph_compute(backend, graph) == GGML_STATUS_SUCCESS;
}

bool llama_state_copy_by_graph(ggml_backend_t backend, const std::vector<llama_state_block> & blocks, const llama_state_memory & memory, llama_state_direction direction) {
    for (size_t i = 0; i < blocks.size(); i += MAX_NODES) {
        if (!compute_copies(backend, &blocks[i], std::min(MAX_NODES, blocks.size() - i), memory, direction)) {
            return false;
        }
    }
    return true;
}

#include "llama-state-copy.h"

#include "llama-impl.h"
#include "llama-state-ways.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cstring>
#include <string>

//
// packed memory
//

std::unique_ptr<llama_state_memory> llama_state_memory::alloc(ggml_backend_buffer_type_t buft, size_t size) {
    auto res = std::make_unique<llama_state_memory>();

    // a multiple of any alignment that words could want
    const size_t max_size = std::max<size_t>(ggml_backend_buft_get_max_size(buft) & ~size_t(255), 256);

    res->type       = buft;
    res->bytes      = size;
    res->chunk_size = std::min(max_size, std::max<size_t>(size, 1));

    for (size_t pos = 0; pos < size; pos += res->chunk_size) {
        const size_t chunk_bytes = std::min(res->chunk_size, size - pos);

        const ggml_init_params params = {
            /*.mem_size   =*/ ggml_tensor_overhead(),
            /*.mem_buffer =*/ NULL,
            /*.no_alloc   =*/ true,
        };

        chunk_t chunk;
        chunk.ctx.reset(ggml_init(params));
        if (!chunk.ctx) {
            return nullptr;
        }
        chunk.buffer.reset(ggml_backend_buft_alloc_buffer(buft, chunk_bytes));
        if (!chunk.buffer) {
            return nullptr;
        }

        chunk.tensor = ggml_new_tensor_1d(chunk.ctx.get(), GGML_TYPE_I8, (int64_t) chunk_bytes);
        ggml_set_name(chunk.tensor, "saved_state");

        if (ggml_backend_tensor_alloc(chunk.buffer.get(), chunk.tensor, ggml_backend_buffer_get_base(chunk.buffer.get())) != GGML_STATUS_SUCCESS) {
            return nullptr;
        }

        res->chunks.push_back(std::move(chunk));
    }

    return res;
}

//
// the copies
//

// Bytes at an address of a buffer, for functions that take tensors.
static ggml_tensor stand_in(ggml_backend_buffer_t buffer, char * data, size_t size) {
    ggml_tensor t = {};

    t.type   = GGML_TYPE_I8;
    t.buffer = buffer;
    t.data   = data;
    t.ne[0]  = (int64_t) size;
    t.nb[0]  = 1;

    for (int i = 1; i < GGML_MAX_DIMS; ++i) {
        t.ne[i] = 1;
        t.nb[i] = size;
    }

    return t;
}

static void copy_async(ggml_backend_t backend, const std::vector<llama_state_block> & blocks, const llama_state_memory & memory, llama_state_direction direction) {
    for (const auto & block : blocks) {
        const auto [src, dst] = llama_state_ends_of(block, memory, direction);
        for (size_t i = 0; i < block.count; ++i) {
            const ggml_tensor from = stand_in(src.buffer, src.data + i*src.pitch, block.width);
            /* */ ggml_tensor to   = stand_in(dst.buffer, dst.data + i*dst.pitch, block.width);

            // no pin's version changes the source, the oldest one says so less clearly
            ggml_backend_tensor_copy_async(backend, backend, const_cast<ggml_tensor *>(&from), &to);
        }
    }

    ggml_backend_synchronize(backend);
}

static void copy_staged(const std::vector<llama_state_block> & blocks, const llama_state_memory & memory, llama_state_direction direction) {
    std::vector<char> row;

    for (const auto & block : blocks) {
        row.resize(std::max(row.size(), block.width));

        ggml_tensor * chunk = memory.chunk(block.packed);

        for (size_t i = 0; i < block.count; ++i) {
            const size_t offset = block.offset + i*block.pitch;
            const size_t packed = memory.offset(block.packed) + i*block.packed_pitch;

            if (direction == llama_state_direction::SAVE) {
                ggml_backend_tensor_get(block.tensor, row.data(), offset, block.width);
                ggml_backend_tensor_set(chunk,        row.data(), packed, block.width);
            } else {
                ggml_backend_tensor_get(chunk,        row.data(), packed, block.width);
                ggml_backend_tensor_set(block.tensor, row.data(), offset, block.width);
            }
        }
    }
}

//
// the choice
//

static bool starts_with(const std::string & name, const char * prefix) {
    return name.compare(0, strlen(prefix), prefix) == 0;
}

static llama_device_state_copy choose(ggml_backend_t backend, const std::vector<llama_state_block> & blocks) {
    ggml_backend_dev_t dev = ggml_backend_get_device(backend);

    const std::string name = ggml_backend_reg_name(ggml_backend_dev_backend_reg(dev));

    // no cpy_tensor_async: a copy waits for the device, twice
    for (const char * prefix : { "SYCL", "OpenCL", "RPC" }) {
        if (starts_with(name, prefix)) {
            return LLAMA_DEVICE_STATE_COPY_GRAPH;
        }
    }

    // a copy is an entry in a command buffer, which many are recorded into
    if (starts_with(name, "Vulkan")) {
        return LLAMA_DEVICE_STATE_COPY_ASYNC;
    }

    ggml_backend_dev_props props;
    ggml_backend_dev_get_props(dev, &props);

    size_t n_rows = 0;
    for (const auto & block : blocks) {
        n_rows += block.count;
    }

    // a copy is a launch of its own, and so is a node, whatever its number of rows
    return props.caps.async && n_rows <= 2*blocks.size() ? LLAMA_DEVICE_STATE_COPY_ASYNC : LLAMA_DEVICE_STATE_COPY_GRAPH;
}

void llama_state_copy(
        ggml_backend_t                         backend,
        const std::vector<llama_state_block> & blocks_all,
        const llama_state_memory             & memory,
        llama_state_direction                  direction,
        llama_device_state_copy                how) {
    if (blocks_all.empty()) {
        return;
    }

    const bool host = llama_state_all_on_host(blocks_all, memory);

    // no backend copies on both sides
    const bool mixed = !backend || !ggml_backend_get_device(backend) || !ggml_backend_supports_buft(backend, memory.buft());

    // tensors that are split among devices have no addresses: each is asked for its bytes
    if (!host && (mixed || how == LLAMA_DEVICE_STATE_COPY_STAGED)) {
        copy_staged(llama_state_cut(blocks_all, memory.limit()), memory, direction);
        return;
    }

    const std::vector<llama_state_block> blocks = llama_state_cut(llama_state_join(blocks_all), memory.limit());

    if (host) {
        if (how != LLAMA_DEVICE_STATE_COPY_GRAPH || !backend || !llama_state_copy_by_graph(backend, blocks, memory, direction)) {
            llama_state_copy_on_host(blocks, memory, direction);
        }
        return;
    }

    if (how == LLAMA_DEVICE_STATE_COPY_AUTO) {
        how = choose(backend, blocks);
    }

    if (how == LLAMA_DEVICE_STATE_COPY_GRAPH) {
        if (llama_state_copy_by_graph(backend, blocks, memory, direction)) {
            return;
        }
        LLAMA_LOG_DEBUG("%s: %s cannot copy by a graph\n", __func__, ggml_backend_name(backend));
    }

    copy_async(backend, blocks, memory, direction);
}

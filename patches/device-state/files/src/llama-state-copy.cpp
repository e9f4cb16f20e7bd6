#include "llama-state-copy.h"

#include "llama-impl.h"

#include "ggml-backend.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>
#include <system_error>
#include <thread>

//
// the plan
//

// The widest pattern of rows that is looked for: a sequence whose cells lie in so many pieces.
static constexpr size_t MAX_PERIOD = 64;

static std::vector<llama_state_range> merge_adjacent(const std::vector<llama_state_range> & ranges) {
    std::vector<llama_state_range> res;
    res.reserve(ranges.size());

    for (const auto & range : ranges) {
        if (range.size == 0) {
            continue;
        }
        if (!res.empty() && res.back().tensor == range.tensor && res.back().offset + res.back().size == range.offset) {
            res.back().size += range.size;
        } else {
            res.push_back(range);
        }
    }

    return res;
}

// Do the n ranges from b on repeat those from a on, one pitch further?
static bool repeats(const llama_state_range * a, const llama_state_range * b, size_t n, size_t pitch) {
    for (size_t i = 0; i < n; ++i) {
        if (a[i].size != b[i].size || b[i].offset != a[i].offset + pitch) {
            return false;
        }
    }
    return true;
}

// The ranges begin with `count` repetitions of the first `period` ones; {1, 1} when nothing repeats.
struct pattern_t {
    size_t period;
    size_t count;
};

// The pattern with the most rows in a block. The first one found would not do: every second cell of a transposed V repeats
// after one range up to the end of a row, and after a row's number of ranges up to the end of the tensor.
static pattern_t find_pattern(const llama_state_range * ranges, size_t n) {
    pattern_t best = { 1, 1 };

    for (size_t period = 1; period <= MAX_PERIOD && n/period > best.count; ++period) {
        const auto & next = ranges[period];

        if (next.offset <= ranges[period - 1].offset || next.offset <= ranges[0].offset) {
            continue;
        }

        const size_t pitch = next.offset - ranges[0].offset;

        size_t count = 1;
        while ((count + 1)*period <= n && repeats(ranges + (count - 1)*period, ranges + count*period, period, pitch)) {
            ++count;
        }
        if (count > best.count) {
            best = { period, count };
        }
    }

    return best;
}

std::vector<llama_state_block> llama_state_plan(const std::vector<llama_state_range> & ranges) {
    const std::vector<llama_state_range> merged = merge_adjacent(ranges);

    std::vector<llama_state_block> blocks;

    size_t packed = 0;

    for (size_t i = 0; i < merged.size();) {
        size_t end = i + 1; // of this tensor's ranges
        while (end < merged.size() && merged[end].tensor == merged[i].tensor) {
            ++end;
        }

        while (i < end) {
            const llama_state_range * first = &merged[i];

            const auto [period, count] = find_pattern(first, end - i);
            const size_t pitch = count > 1 ? first[period].offset - first->offset : 0;

            size_t packed_pitch = 0;
            for (size_t j = 0; j < period; ++j) {
                packed_pitch += first[j].size;
            }

            size_t packed_row = packed;
            for (size_t j = 0; j < period; ++j) {
                blocks.push_back({first[j].tensor, first[j].offset, pitch, packed_row, packed_pitch, first[j].size, count});
                packed_row += first[j].size;
            }

            packed += packed_pitch*count;
            i      += period*count;
        }
    }

    return blocks;
}

std::vector<llama_state_block> llama_state_cut(const std::vector<llama_state_block> & blocks, size_t limit) {
    std::vector<llama_state_block> res;
    res.reserve(blocks.size());

    const auto rows = [](const llama_state_block & block, size_t first, size_t count) {
        llama_state_block part = block;
        part.offset += first*block.pitch;
        part.packed += first*block.packed_pitch;
        part.count   = count;
        return part;
    };

    for (const auto & block : blocks) {
        size_t row = 0;

        while (row < block.count) {
            const size_t begin = block.packed + row*block.packed_pitch;
            const size_t end   = (begin/limit + 1)*limit;

            // rows that end before the boundary
            size_t n = 0;
            if (begin + block.width <= end) {
                n = block.count - row;
                if (block.packed_pitch > 0) {
                    n = std::min(n, (end - begin - block.width)/block.packed_pitch + 1);
                }
            }

            if (n > 0) {
                res.push_back(rows(block, row, n));
                row += n;
                continue;
            }

            // a row across one boundary or more
            llama_state_block part = rows(block, row, 1);
            size_t left = block.width;
            while (left > 0) {
                part.width = std::min(left, (part.packed/limit + 1)*limit - part.packed);
                res.push_back(part);
                part.offset += part.width;
                part.packed += part.width;
                left        -= part.width;
            }
            ++row;
        }
    }

    return res;
}

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

// Where a block's rows lie: in a tensor, in its buffer.
struct rows_t {
    ggml_backend_buffer_t buffer;
    char *                data;
    size_t                pitch;
};

static ggml_backend_buffer_t buffer_of(const ggml_tensor * tensor) {
    return tensor->view_src ? tensor->view_src->buffer : tensor->buffer;
}

static rows_t rows_of_tensor(const llama_state_block & block) {
    return { buffer_of(block.tensor), (char *) block.tensor->data + block.offset, block.pitch };
}

static rows_t rows_of_memory(const llama_state_block & block, const llama_state_memory & memory) {
    const ggml_tensor * chunk = memory.chunk(block.packed);

    return { chunk->buffer, (char *) chunk->data + memory.offset(block.packed), block.packed_pitch };
}

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

static bool all_on_host(const std::vector<llama_state_block> & blocks, const llama_state_memory & memory) {
    return std::all_of(blocks.begin(), blocks.end(), [&](const llama_state_block & block) {
        return ggml_backend_buffer_is_host(buffer_of(block.tensor)) && ggml_backend_buffer_is_host(memory.chunk(block.packed)->buffer);
    });
}

struct shape_t {
    size_t bytes = 0;
    size_t rows  = 0;
};

static shape_t shape_of(const std::vector<llama_state_block> & blocks) {
    shape_t shape;
    for (const auto & block : blocks) {
        shape.bytes += block.width*block.count;
        shape.rows  += block.count;
    }
    return shape;
}

// Rows to copy in host memory: what a thread takes at a time.
struct host_rows {
    char *       dst;
    const char * src;
    size_t       dst_pitch;
    size_t       src_pitch;
    size_t       width;
    size_t       count;
};

static constexpr size_t PIECE_BYTES   = 256*1024;
static constexpr size_t THREADS_BYTES = 1024*1024; // less is done before a thread has started
static constexpr size_t MAX_THREADS   = 4;         // more do not make memory faster

// Pieces of about the same size, in rows, or parts of a row that is larger.
static std::vector<host_rows> pieces_on_host(const std::vector<llama_state_block> & blocks, const llama_state_memory & memory, llama_state_direction direction) {
    std::vector<host_rows> pieces;

    for (const auto & block : blocks) {
        rows_t src = rows_of_tensor(block);
        rows_t dst = rows_of_memory(block, memory);
        if (direction == llama_state_direction::RESTORE) {
            std::swap(src, dst);
        }

        const size_t width = std::min(block.width, PIECE_BYTES);
        const size_t count = std::max<size_t>(PIECE_BYTES/width, 1);

        for (size_t x = 0; x < block.width; x += width) {
            for (size_t i = 0; i < block.count; i += count) {
                pieces.push_back({
                    dst.data + i*dst.pitch + x, src.data + i*src.pitch + x, dst.pitch, src.pitch,
                    std::min(width, block.width - x), std::min(count, block.count - i),
                });
            }
        }
    }

    return pieces;
}

static void copy_on_host(const std::vector<llama_state_block> & blocks, const llama_state_memory & memory, llama_state_direction direction) {
    const std::vector<host_rows> pieces = pieces_on_host(blocks, memory, direction);

    std::atomic<size_t> next = 0;

    // Whoever is free takes the next piece, so a thread that gets no processor holds up nobody. A graph on the CPU's own
    // threads waits for all of them after every node: on busy cores that took a hundred times as long.
    const auto work = [&]() {
        for (size_t i = next++; i < pieces.size(); i = next++) {
            const host_rows & rows = pieces[i];
            for (size_t row = 0; row < rows.count; ++row) {
                memcpy(rows.dst + row*rows.dst_pitch, rows.src + row*rows.src_pitch, rows.width);
            }
        }
    };

    std::vector<std::thread> threads;

    if (shape_of(blocks).bytes >= THREADS_BYTES) {
        const size_t n_threads = std::min<size_t>({ MAX_THREADS, std::thread::hardware_concurrency(), pieces.size() });
        try {
            while (threads.size() + 1 < n_threads) {
                threads.emplace_back(work);
            }
        } catch (const std::system_error &) {
            // fewer will do
        }
    }

    work();

    for (auto & thread : threads) {
        thread.join();
    }
}

static void copy_async(ggml_backend_t backend, const std::vector<llama_state_block> & blocks, const llama_state_memory & memory, llama_state_direction direction) {
    for (const auto & block : blocks) {
        rows_t src = rows_of_tensor(block);
        rows_t dst = rows_of_memory(block, memory);
        if (direction == llama_state_direction::RESTORE) {
            std::swap(src, dst);
        }
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
// the graph
//

// Nodes in one graph.
static constexpr size_t MAX_NODES = 1024;

// Rows that a contiguous range is shown as, so that threads can share it.
static constexpr size_t ROW_BYTES = 4096;

static size_t gcd(size_t a, size_t b) {
    return b == 0 ? a : gcd(b, a % b);
}

// Copies of integers are exact whatever the tensor's type is; of quantized types they are not on every device.
static bool word_type(const rows_t & src, const rows_t & dst, size_t width, ggml_type & type, size_t & size) {
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

static ggml_tensor * strided(ggml_context * ctx, const rows_t & rows, ggml_type type, size_t word, size_t width, size_t count) {
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

        rows_t src = rows_of_tensor(block);
        rows_t dst = rows_of_memory(block, memory);
        if (direction == llama_state_direction::RESTORE) {
            std::swap(src, dst);
        }

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

static bool copy_by_graph(ggml_backend_t backend, const std::vector<llama_state_block> & blocks, const llama_state_memory & memory, llama_state_direction direction) {
    for (size_t i = 0; i < blocks.size(); i += MAX_NODES) {
        if (!compute_copies(backend, &blocks[i], std::min(MAX_NODES, blocks.size() - i), memory, direction)) {
            return false;
        }
    }
    return true;
}

//
// the choice
//

static bool starts_with(const std::string & name, const char * prefix) {
    return name.compare(0, strlen(prefix), prefix) == 0;
}

static llama_device_state_copy choose(ggml_backend_t backend, const std::vector<llama_state_block> & blocks) {
    ggml_backend_dev_t dev = ggml_backend_get_device(backend);
    if (!dev) {
        return LLAMA_DEVICE_STATE_COPY_STAGED;
    }

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

    // a copy is a launch of its own, and so is a node, whatever its number of rows
    return props.caps.async && shape_of(blocks).rows <= 2*blocks.size() ? LLAMA_DEVICE_STATE_COPY_ASYNC : LLAMA_DEVICE_STATE_COPY_GRAPH;
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

    const std::vector<llama_state_block> blocks = llama_state_cut(blocks_all, memory.limit());

    if (all_on_host(blocks, memory)) {
        if (how != LLAMA_DEVICE_STATE_COPY_GRAPH || !backend || !copy_by_graph(backend, blocks, memory, direction)) {
            copy_on_host(blocks, memory, direction);
        }
        return;
    }

    // only one side is the device's
    const bool mixed = !backend || !ggml_backend_supports_buft(backend, memory.buft());

    if (how == LLAMA_DEVICE_STATE_COPY_AUTO) {
        how = mixed ? LLAMA_DEVICE_STATE_COPY_STAGED : choose(backend, blocks);
    }

    if (!mixed && how == LLAMA_DEVICE_STATE_COPY_GRAPH) {
        if (copy_by_graph(backend, blocks, memory, direction)) {
            return;
        }
        LLAMA_LOG_DEBUG("%s: %s cannot copy by a graph\n", __func__, ggml_backend_name(backend));
        how = LLAMA_DEVICE_STATE_COPY_ASYNC;
    }

    if (!mixed && how == LLAMA_DEVICE_STATE_COPY_ASYNC) {
        copy_async(backend, blocks, memory, direction);
    } else {
        copy_staged(blocks, memory, direction);
    }
}

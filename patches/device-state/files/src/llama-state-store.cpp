#include "llama-state-store.h"

#include "llama-impl.h"
#include "llama-memory.h"
#include "llama-state-blob.h"
#include "llama-state-io.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>
#include <utility>

// only what cannot be rewound; the oldest pin has another name for it
static constexpr llama_state_seq_flags PARTIAL = 1;

//
// parts: tensor data by buffer type
//

namespace {

struct ranges_of_buft {
    ggml_backend_buffer_type_t     buft;
    size_t                         size;
    std::vector<llama_state_range> ranges;
};

} // namespace

// Tensors come as they lie in memory, where those of neighbouring layers may follow each other: they are one copy then.
// It is the same order whichever cells of them are named.
static std::vector<ranges_of_buft> by_buft(const std::vector<llama_state_range> & ranges) {
    using iterator = std::vector<llama_state_range>::const_iterator;

    std::vector<std::pair<iterator, iterator>> runs; // of one tensor
    for (auto first = ranges.begin(); first != ranges.end();) {
        const auto last = std::find_if(first, ranges.end(), [&](const llama_state_range & cur) { return cur.tensor != first->tensor; });
        runs.emplace_back(first, last);
        first = last;
    }

    // by buffer first: there are devices where the addresses of all buffers begin alike
    const auto place = [](const auto & run) {
        return std::make_pair((uintptr_t) llama_state_buffer_of(run.first->tensor), (uintptr_t) run.first->tensor->data);
    };
    std::stable_sort(runs.begin(), runs.end(), [&](const auto & a, const auto & b) { return place(a) < place(b); });

    std::vector<ranges_of_buft> res;

    for (const auto & [first, last] : runs) {
        ggml_backend_buffer_type_t buft = ggml_backend_buffer_get_type(llama_state_buffer_of(first->tensor));

        auto it = std::find_if(res.begin(), res.end(), [&](const ranges_of_buft & cur) { return cur.buft == buft; });
        if (it == res.end()) {
            it = res.insert(res.end(), {buft, 0, {}});
        }
        for (auto range = first; range != last; ++range) {
            it->size += range->size;
        }
        it->ranges.insert(it->ranges.end(), first, last);
    }

    return res;
}

size_t llama_saved_state::size() const {
    size_t res = 0;
    for (const auto & part : parts) {
        res += part.size;
    }
    return res;
}

bool llama_saved_state::on_host() const {
    return std::any_of(parts.begin(), parts.end(), [](const part & cur) {
        return cur.memory->buft() != cur.buft && !ggml_backend_buft_is_host(cur.buft);
    });
}

// Devices made of several split the tensors among them, in ways that packed bytes cannot follow.
static bool is_split(ggml_backend_buffer_type_t buft) {
    ggml_backend_dev_t dev = ggml_backend_buft_get_device(buft);

    return dev && ggml_backend_dev_type(dev) > GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

static std::unique_ptr<llama_state_memory> alloc_part(ggml_backend_buffer_type_t buft, size_t size, llama_state_place place) {
    if (place != llama_state_place::HOST && is_split(buft)) {
        LLAMA_LOG_WARN("%s: tensors on %s are split among devices: their state goes to host memory\n", __func__, ggml_backend_buft_name(buft));
        place = llama_state_place::HOST;
    }

    std::unique_ptr<llama_state_memory> res;

    if (place != llama_state_place::HOST) {
        res = llama_state_memory::alloc(buft, size);
        if (res || place == llama_state_place::DEVICE) {
            return res;
        }
        LLAMA_LOG_WARN("%s: %s has not %zu bytes more: the state goes to host memory\n", __func__, ggml_backend_buft_name(buft), size);
    }

    return llama_state_memory::alloc(ggml_backend_cpu_buffer_type(), size);
}

//
// llama_state_store
//

static llama_device_state_copy copy_from_env() {
    const char * name = getenv("LLAMA_STATE_COPY");
    if (!name || !*name || strcmp(name, "auto") == 0) {
        return LLAMA_DEVICE_STATE_COPY_AUTO;
    }
    if (strcmp(name, "async") == 0) {
        return LLAMA_DEVICE_STATE_COPY_ASYNC;
    }
    if (strcmp(name, "graph") == 0) {
        return LLAMA_DEVICE_STATE_COPY_GRAPH;
    }
    if (strcmp(name, "staged") == 0) {
        return LLAMA_DEVICE_STATE_COPY_STAGED;
    }
    LLAMA_LOG_WARN("%s: LLAMA_STATE_COPY=%s is none of auto, async, graph, staged: auto is taken\n", __func__, name);
    return LLAMA_DEVICE_STATE_COPY_AUTO;
}

static uint64_t random_nonce() {
    std::random_device rd;
    return ((uint64_t) rd() << 32) ^ rd();
}

llama_state_store::llama_state_store(llama_memory_i & memory, const std::vector<ggml_backend_t> & backends, uint32_t n_seq_max) :
    how(copy_from_env()), memory(memory), backends(backends), n_seq_max(n_seq_max), nonce(random_nonce()) {
}

bool llama_state_store::valid_seq(llama_seq_id seq_id, const char * func) const {
    if (seq_id < 0 || (uint32_t) seq_id >= n_seq_max) {
        LLAMA_LOG_ERROR("%s: there is no sequence %d, the context has 0 to %u\n", func, seq_id, n_seq_max - 1);
        return false;
    }
    return true;
}

ggml_backend_t llama_state_store::backend_for(ggml_backend_buffer_type_t buft) const {
    ggml_backend_dev_t dev = ggml_backend_buft_get_device(buft);

    for (ggml_backend_t backend : backends) {
        if (ggml_backend_get_device(backend) == dev && ggml_backend_supports_buft(backend, buft)) {
            return backend;
        }
    }

    if (ggml_backend_buft_is_host(buft)) {
        for (ggml_backend_t backend : backends) {
            ggml_backend_dev_t cur = ggml_backend_get_device(backend);
            if (cur && ggml_backend_dev_type(cur) == GGML_BACKEND_DEVICE_TYPE_CPU) {
                return backend;
            }
        }
    }

    return nullptr;
}

llama_state_id llama_state_store::save(
        llama_seq_id                        seq_id,
        llama_state_seq_flags               flags,
        llama_state_place                   place,
        llama_state_id                      replaced,
        const std::function<bool(size_t)> & admit) {
    if (!valid_seq(seq_id, __func__)) {
        return 0;
    }

    flags &= ~LLAMA_STATE_SEQ_FLAGS_ON_DEVICE; // the memory modules need not know

    try {
        llama_state_writer writer;
        memory.state_write(writer, seq_id, flags);

        llama_saved_state state;
        state.seq_id = seq_id;
        state.flags  = flags;
        state.meta   = std::move(writer.meta);
        state.cells  = std::move(writer.cells);

        const std::vector<ranges_of_buft> groups = by_buft(writer.ranges);

        size_t total = 0;
        for (const auto & group : groups) {
            total += group.size;
        }
        if (admit && !admit(total)) {
            return 0;
        }

        const auto old = states.find(replaced);

        bool same = old != states.end() && old->second.parts.size() == groups.size();
        for (size_t i = 0; same && i < groups.size(); ++i) {
            const auto & part = old->second.parts[i];
            const auto   where = place == llama_state_place::HOST ? ggml_backend_cpu_buffer_type() : groups[i].buft;
            same = part.buft == groups[i].buft && part.size == groups[i].size && part.memory->buft() == where;
        }

        std::vector<std::vector<llama_state_block>> plans;
        for (const auto & group : groups) {
            plans.push_back(llama_state_plan(group.ranges));
        }

        if (same) {
            state.parts = std::move(old->second.parts);
            states.erase(old);
        } else {
            for (const auto & group : groups) {
                auto mem = alloc_part(group.buft, group.size, place);
                if (!mem) {
                    LLAMA_LOG_ERROR("%s: %s has not %zu bytes more for the state of sequence %d\n", __func__, ggml_backend_buft_name(group.buft), group.size, seq_id);
                    return 0;
                }
                state.parts.push_back({group.buft, group.size, std::move(mem)});
            }
        }

        for (size_t i = 0; i < groups.size(); ++i) {
            llama_state_copy(backend_for(groups[i].buft), plans[i], *state.parts[i].memory, llama_state_direction::SAVE, how);
        }

        if (!same && old != states.end()) {
            states.erase(old);
        }

        const llama_state_id id = next_id++;
        states.emplace(id, std::move(state));
        return id;
    } catch (const std::exception & err) {
        LLAMA_LOG_ERROR("%s: the state of sequence %d cannot be saved: %s\n", __func__, seq_id, err.what());
        return 0;
    }
}

bool llama_state_store::restore(llama_state_id id, llama_seq_id dest) {
    if (!valid_seq(dest, __func__)) {
        return false;
    }

    const auto it = states.find(id);
    if (it == states.end()) {
        LLAMA_LOG_ERROR("%s: there is no saved state %llu\n", __func__, (unsigned long long) id);
        return false;
    }

    const llama_saved_state & state = it->second;

    for (const auto & cells : state.cells) {
        if (!cells.fit(dest)) {
            LLAMA_LOG_ERROR("%s: the memory has not enough free cells for the state; remove other sequences first\n", __func__);
            return false;
        }
    }

    // from here on the sequence changes
    try {
        // a memory that had no cells of the sequence has nothing to read, and would leave what dest holds
        if (!(state.flags & PARTIAL) || state.size() == 0) {
            memory.seq_rm(dest, -1, -1);
        }

        // the oldest pin's recurrent memory takes at least one cell for granted
        if (state.size() == 0) {
            return true;
        }

        llama_state_reader reader(state.meta, state.cells);
        memory.state_read(reader, dest, state.flags);

        if (reader.pos != state.meta.size()) {
            throw std::runtime_error("not all of the metadata was read");
        }

        const std::vector<ranges_of_buft> groups = by_buft(reader.ranges);

        if (groups.size() != state.parts.size()) {
            throw std::runtime_error("the tensors are on other devices than before");
        }

        for (const auto & group : groups) {
            const auto part = std::find_if(state.parts.begin(), state.parts.end(), [&](const llama_saved_state::part & cur) { return cur.buft == group.buft; });
            if (part == state.parts.end() || part->size != group.size) {
                throw std::runtime_error("the tensors are on other devices than before");
            }
        }

        for (const auto & group : groups) {
            const auto part = std::find_if(state.parts.begin(), state.parts.end(), [&](const llama_saved_state::part & cur) { return cur.buft == group.buft; });

            llama_state_copy(backend_for(group.buft), llama_state_plan(group.ranges), *part->memory, llama_state_direction::RESTORE, how);
        }

        return true;
    } catch (const std::exception & err) {
        LLAMA_LOG_ERROR("%s: the state cannot be restored, sequence %d was removed: %s\n", __func__, dest, err.what());
        memory.seq_rm(dest, -1, -1);
        return false;
    }
}

bool llama_state_store::forget(llama_state_id id) {
    return states.erase(id) > 0;
}

const llama_saved_state * llama_state_store::find(llama_state_id id) const {
    const auto it = states.find(id);
    return it == states.end() ? nullptr : &it->second;
}

std::map<ggml_backend_buffer_type_t, size_t> llama_state_store::memory_breakdown() const {
    std::map<ggml_backend_buffer_type_t, size_t> res;
    for (const auto & [_, state] : states) {
        for (const auto & part : state.parts) {
            res[part.memory->buft()] += part.size;
        }
    }
    return res;
}

//
// blobs
//

size_t llama_state_store::blob_size(llama_seq_id seq_id, llama_state_seq_flags flags) const {
    if (!valid_seq(seq_id, __func__)) {
        return 0;
    }

    try {
        llama_state_sizer sizer;
        memory.state_write(sizer, seq_id, flags & ~LLAMA_STATE_SEQ_FLAGS_ON_DEVICE);

        return llama_state_blob_size(sizer.size_meta);
    } catch (const std::exception & err) {
        LLAMA_LOG_ERROR("%s: the state of sequence %d cannot be written: %s\n", __func__, seq_id, err.what());
        return 0;
    }
}

size_t llama_state_store::blob_save(llama_seq_id seq_id, llama_state_seq_flags flags, uint8_t * dst, size_t size) {
    const size_t needed = blob_size(seq_id, flags);
    if (needed == 0) {
        return 0;
    }
    if (dst == nullptr || size < needed) {
        LLAMA_LOG_ERROR("%s: the buffer has %zu bytes, the state needs %zu\n", __func__, dst ? size : 0, needed);
        return 0;
    }

    flags &= ~LLAMA_STATE_SEQ_FLAGS_ON_DEVICE;

    auto & slot = blobs[{seq_id, flags}];

    const llama_state_id id = save(seq_id, flags, llama_state_place::DEVICE, slot);
    if (id == 0) {
        return 0;
    }
    slot = id;

    return llama_state_blob_write({nonce, id, flags}, find(id)->meta, dst);
}

size_t llama_state_store::blob_restore(llama_seq_id dest, llama_state_seq_flags flags, const uint8_t * src, size_t size) {
    llama_state_blob blob;

    const char * reason = llama_state_blob_read(src, size, blob);

    if (!reason && blob.head.nonce != nonce) {
        reason = "it was saved by another context";
    }
    if (!reason && blob.head.flags != (flags & ~LLAMA_STATE_SEQ_FLAGS_ON_DEVICE)) {
        reason = "it was saved with other flags";
    }

    const llama_saved_state * state = reason ? nullptr : find(blob.head.id);

    if (!reason && !state) {
        reason = "the sequence was saved again since then, or the state was freed";
    }
    if (!reason && (blob.meta_size != state->meta.size() || memcmp(blob.meta, state->meta.data(), blob.meta_size) != 0)) {
        reason = "it is damaged";
    }
    if (reason) {
        LLAMA_LOG_ERROR("%s: the state is refused: %s\n", __func__, reason);
        return 0;
    }

    return restore(blob.head.id, dest) ? llama_state_blob_size(blob.meta_size) : 0;
}

size_t llama_state_store::blob_bytes(llama_seq_id seq_id) const {
    size_t res = 0;
    for (const auto & [key, id] : blobs) {
        const llama_saved_state * state = find(id);
        if (state && (seq_id < 0 || key.first == seq_id)) {
            res += state->size();
        }
    }
    return res;
}

size_t llama_state_store::blob_free(llama_seq_id seq_id) {
    const size_t res = blob_bytes(seq_id);

    for (auto it = blobs.begin(); it != blobs.end();) {
        if (seq_id < 0 || it->first.first == seq_id) {
            forget(it->second);
            it = blobs.erase(it);
        } else {
            ++it;
        }
    }

    return res;
}

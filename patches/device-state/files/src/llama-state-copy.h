#pragma once

// Moving many small ranges of tensors to and from packed memory: a plan, and ways to carry it out.

#include "llama-device-state.h"

#include "ggml-cpp.h"

#include <cstddef>
#include <memory>
#include <vector>

// Bytes of a tensor, as the memory modules name them.
struct llama_state_range {
    ggml_tensor * tensor;
    size_t        offset;
    size_t        size;
};

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

// Cut blocks so that no row crosses a multiple of `limit` in packed memory.
std::vector<llama_state_block> llama_state_cut(const std::vector<llama_state_block> & blocks, size_t limit);

// Packed bytes, in one buffer, or in several where the buffer type has a maximum size.
class llama_state_memory {
public:
    // nullptr when the device has not that much
    static std::unique_ptr<llama_state_memory> alloc(ggml_backend_buffer_type_t buft, size_t size);

    ggml_backend_buffer_type_t buft() const { return type; }

    size_t size()  const { return bytes; }
    size_t limit() const { return chunk_size; }

    // what lies at a position; the rest of its chunk follows it
    ggml_tensor * chunk(size_t pos) const { return chunks[pos/chunk_size].tensor; }
    size_t       offset(size_t pos) const { return pos % chunk_size; }

private:
    struct chunk_t {
        ggml_context_ptr        ctx;
        ggml_backend_buffer_ptr buffer;
        ggml_tensor *           tensor;
    };

    ggml_backend_buffer_type_t type = nullptr;

    size_t bytes      = 0;
    size_t chunk_size = 1;

    std::vector<chunk_t> chunks;
};

enum class llama_state_direction { SAVE, RESTORE };

// Copy and wait until it is done. `backend` works on the tensors' buffers, null where none does. Nothing may be queued on
// them.
void llama_state_copy(
        ggml_backend_t                         backend,
        const std::vector<llama_state_block> & blocks,
        const llama_state_memory             & memory,
        llama_state_direction                  direction,
        llama_device_state_copy                how);

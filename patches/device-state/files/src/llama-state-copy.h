#pragma once

// Moving blocks of rows to and from packed memory. How each way does it: llama-state-ways.h.

#include "llama-device-state.h"
#include "llama-state-plan.h"

#include "ggml-cpp.h"

#include <cstddef>
#include <memory>
#include <vector>

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

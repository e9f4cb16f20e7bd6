#pragma once

// Saved states of sequences whose tensor data stays on the devices, by id.
//
// A memory module writes its metadata and names ranges of tensors, as it does for a state in host memory. The metadata is
// kept, the ranges are copied into buffers of the same type. Other features build on this header.

#include "llama-state-cells.h"
#include "llama-state-copy.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

struct llama_context;
struct llama_memory_i;

using llama_state_id = uint64_t; // 0: none

struct llama_saved_state {
    // tensor data of one buffer type, packed
    struct part {
        ggml_backend_buffer_type_t          buft; // of the tensors
        size_t                              size;
        std::unique_ptr<llama_state_memory> memory;
    };

    llama_seq_id          seq_id = -1;
    llama_state_seq_flags flags  = 0;

    std::vector<uint8_t>           meta;
    std::vector<llama_state_cells> cells;
    std::vector<part>              parts;

    // bytes of tensor data
    size_t size() const;

    // whether a part of it had to go to host memory
    bool on_host() const;
};

enum class llama_state_place {
    DEVICE,         // fail when a device has not enough memory
    DEVICE_OR_HOST, // take host memory then
    HOST,
};

// To be called before states are saved or restored: carries out shifts and copies of cells that the memory has only noted
// for the next decode, and waits for all that is being computed. Returns false when they cannot be carried out.
bool llama_state_settle(llama_context & ctx);

class llama_state_store {
public:
    llama_state_store(llama_memory_i & memory, const std::vector<ggml_backend_t> & backends, uint32_t n_seq_max);

    // Save a sequence; the context is settled. Returns 0 and changes nothing when it cannot be.
    // `replaced` (or 0) is forgotten once the new state is there; where both have the same shape its memory is used again.
    // `admit` (or null) is asked with the bytes of tensor data before any memory is taken.
    llama_state_id save(
            llama_seq_id                        seq_id,
            llama_state_seq_flags               flags,
            llama_state_place                   place,
            llama_state_id                      replaced = 0,
            const std::function<bool(size_t)> & admit    = nullptr);

    // Put a saved state in place of what dest holds; the context is settled. Returns false and changes nothing
    // when the id is unknown or the cells do not fit.
    bool restore(llama_state_id id, llama_seq_id dest);

    bool forget(llama_state_id id);

    const llama_saved_state * find(llama_state_id id) const;

    // bytes of all states, by type of the buffers that they lie in
    std::map<ggml_backend_buffer_type_t, size_t> memory_breakdown() const;

    // the blobs of llama_state_seq_*_ext; sizes in bytes, 0 is an error
    size_t blob_size   (llama_seq_id seq_id, llama_state_seq_flags flags) const;
    size_t blob_save   (llama_seq_id seq_id, llama_state_seq_flags flags, uint8_t * dst, size_t size);
    size_t blob_restore(llama_seq_id dest,   llama_state_seq_flags flags, const uint8_t * src, size_t size);

    // bytes that the blobs of a sequence, or of all (seq_id < 0), keep on the devices
    size_t blob_bytes(llama_seq_id seq_id) const;
    size_t blob_free (llama_seq_id seq_id);

    // whether the context has this sequence; logs on behalf of func
    bool valid_seq(llama_seq_id seq_id, const char * func) const;

    llama_device_state_copy how;

private:
    ggml_backend_t backend_for(ggml_backend_buffer_type_t buft) const;

    llama_memory_i & memory;

    const std::vector<ggml_backend_t> backends;
    const uint32_t                    n_seq_max;
    const uint64_t                    nonce; // of this store: blobs of others are refused

    llama_state_id next_id = 1; // never used twice

    std::map<llama_state_id, llama_saved_state> states;

    // the state that the last blob of a sequence stands for
    std::map<std::pair<llama_seq_id, llama_state_seq_flags>, llama_state_id> blobs;
};

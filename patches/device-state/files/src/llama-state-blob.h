#pragma once

// The bytes that stand for a state on the device: a head that says whose it is, and the metadata.

#include "llama.h"

#include <cstddef>
#include <cstdint>
#include <vector>

struct llama_state_blob_head {
    uint64_t              nonce; // of the store
    uint64_t              id;    // of the state; a state that is saved again gets another
    llama_state_seq_flags flags;
};

struct llama_state_blob {
    llama_state_blob_head head;

    const uint8_t * meta; // in the blob
    size_t          meta_size;
};

// bytes of a blob with so much metadata
size_t llama_state_blob_size(size_t meta_size);

// Returns the bytes written to dst, which has room for them.
size_t llama_state_blob_write(const llama_state_blob_head & head, const std::vector<uint8_t> & meta, uint8_t * dst);

// Returns nullptr, or why the bytes are no blob: what they say is only used when they are whole.
const char * llama_state_blob_read(const uint8_t * src, size_t size, llama_state_blob & blob);

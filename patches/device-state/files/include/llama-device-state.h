// Sequence state that stays in device memory: what LLAMA_STATE_SEQ_FLAGS_ON_DEVICE does not say by itself.
//
// With that flag, llama_state_seq_get_data_ext keeps the tensor data of the state in buffers of the context, on the
// devices that hold the sequence's memory, and writes a blob of metadata. llama_state_seq_set_data_ext copies it back,
// into the same or into another sequence of the same context. There is one state per sequence and set of flags: the next
// save replaces it, and blobs of the one before are refused from then on. A blob that is truncated, changed, stale or of
// another context is refused too: 0 is returned, the log says why, and the context is left as it was.

#pragma once

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

// How bytes are moved between a device's buffers. All ways give the same bytes.
enum llama_device_state_copy {
    LLAMA_DEVICE_STATE_COPY_AUTO   = 0, // by device and shape, from measurements
    LLAMA_DEVICE_STATE_COPY_ASYNC  = 1, // one asynchronous copy per row, one wait for all
    LLAMA_DEVICE_STATE_COPY_GRAPH  = 2, // a graph of strided copies
    LLAMA_DEVICE_STATE_COPY_STAGED = 3, // through host memory, row by row: always possible, and slow
};

// Bytes of saved state that the context holds for a sequence, or for all of them (seq_id < 0), wherever they lie.
LLAMA_API size_t llama_device_state_size(const struct llama_context * ctx, llama_seq_id seq_id);

// Give back what the context holds for a sequence, or for all of them (seq_id < 0). Returns the bytes that it was.
// The blobs that belong to it are refused from then on.
LLAMA_API size_t llama_device_state_free(struct llama_context * ctx, llama_seq_id seq_id);

// Choose how the context copies from now on. What a device cannot do is done in the next slower way.
// LLAMA_STATE_COPY=auto|async|graph|staged in the environment chooses for contexts that were not told.
LLAMA_API void                         llama_device_state_set_copy(struct llama_context * ctx, enum llama_device_state_copy copy);
LLAMA_API enum llama_device_state_copy llama_device_state_get_copy(const struct llama_context * ctx);

#ifdef __cplusplus
}
#endif

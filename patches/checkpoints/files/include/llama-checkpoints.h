// Checkpoints of sequences: any number of saved states, by id, on the device or in host memory.
//
// A checkpoint holds what a sequence's memory is at a moment: KV cells, recurrent state, or both. Restoring it gives the
// same logits as then, to the bit, as long as its cells are free again; it never touches another sequence. Checkpoints
// belong to a context and end with it. As all functions of a context, these are for one thread at a time.

#pragma once

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef uint64_t llama_checkpoint_id; // 0: none; never used twice in a context

// Where the tensor data of a checkpoint lies.
enum llama_checkpoint_place {
    LLAMA_CHECKPOINT_DEVICE         = 0, // with the sequence's memory, or not at all
    LLAMA_CHECKPOINT_DEVICE_OR_HOST = 1, // in host memory when a device has not enough; the log says so
    LLAMA_CHECKPOINT_HOST           = 2,
};

// Whether the context has a memory of which checkpoints can be taken: models without one (encoders) have not.
LLAMA_API bool llama_memory_checkpoint_supported(const struct llama_context * ctx);

// Save what a sequence holds, waiting for what is being computed. Returns 0 when it cannot be, the log says why; nothing
// has changed then, but that checkpoints may have been evicted to make room.
// With LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY (at 2025-08 LLAMA_STATE_SEQ_FLAGS_SWA_ONLY) only what cannot be rewound by
// removing tokens is saved: recurrent state and sliding windows. Such a checkpoint is restored into a sequence that still
// holds the tokens up to it, and removes those that came after.
LLAMA_API llama_checkpoint_id llama_memory_checkpoint_save(
            struct llama_context * ctx,
                    llama_seq_id   seq_id,
           llama_state_seq_flags   flags,
     enum llama_checkpoint_place   place);

// The same, in place of another checkpoint, which is gone once the new one is there; its memory is used again where it
// fits. Cheaper than delete and save, for a checkpoint that is taken at every step. id may be 0.
LLAMA_API llama_checkpoint_id llama_memory_checkpoint_replace(
            struct llama_context * ctx,
             llama_checkpoint_id   id,
                    llama_seq_id   seq_id,
           llama_state_seq_flags   flags,
     enum llama_checkpoint_place   place);

// Put a checkpoint in place of what dest_seq_id holds; any sequence of the context. The checkpoint stays. Returns false when
// there is no such checkpoint or no room for its cells; nothing has changed then.
LLAMA_API bool llama_memory_checkpoint_restore(struct llama_context * ctx, llama_checkpoint_id id, llama_seq_id dest_seq_id);

// Free a checkpoint. Returns false when there is no such one.
LLAMA_API bool llama_memory_checkpoint_delete(struct llama_context * ctx, llama_checkpoint_id id);

// Free all checkpoints of a sequence, or of all (seq_id < 0). Returns their number.
LLAMA_API size_t llama_memory_checkpoint_clear(struct llama_context * ctx, llama_seq_id seq_id);

// Number of checkpoints of a sequence, or of all (seq_id < 0).
LLAMA_API size_t llama_memory_checkpoint_count(const struct llama_context * ctx, llama_seq_id seq_id);

// The ids, oldest first; at most n are written. Returns how many there are.
LLAMA_API size_t llama_memory_checkpoint_ids(const struct llama_context * ctx, llama_seq_id seq_id, llama_checkpoint_id * ids, size_t n);

// Bytes of tensor data of a checkpoint, or of all (id = 0). Unknown ids have 0.
LLAMA_API size_t llama_memory_checkpoint_size(const struct llama_context * ctx, llama_checkpoint_id id);

// The sequence that was saved and the last position it held, -1 when it was empty or the id is unknown.
LLAMA_API llama_seq_id llama_memory_checkpoint_seq_id(const struct llama_context * ctx, llama_checkpoint_id id);
LLAMA_API llama_pos    llama_memory_checkpoint_pos   (const struct llama_context * ctx, llama_checkpoint_id id);

// Whether any of it lies in host memory although the sequence's does not.
LLAMA_API bool llama_memory_checkpoint_on_host(const struct llama_context * ctx, llama_checkpoint_id id);

// Limits of all checkpoints together, in bytes of tensor data and in number; 0: none. A save beyond them fails, or takes
// the place of the oldest ones where `evict`. What is there already stays.
LLAMA_API void llama_memory_checkpoint_limit(struct llama_context * ctx, size_t max_bytes, size_t max_count, bool evict);

#ifdef __cplusplus
}
#endif

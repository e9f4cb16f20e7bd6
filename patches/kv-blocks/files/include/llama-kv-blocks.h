#pragma once

#include "llama.h"
#include "llama-context-options.h"

#ifdef __cplusplus
extern "C" {
#endif

// The attention cache in blocks of cells: what is in use, what it costs, and what still fits.

// Cells of a block: a power of two from 8 to 256. False, and no change, for another number. Default: 32.
LLAMA_API bool llama_context_options_set_kv_block_size(struct llama_context_options * options, uint32_t n_cells);

// The cache is made for this many tokens instead of n_ctx; all sequences together hold no more. 0: as many as n_ctx.
LLAMA_API void llama_context_options_set_kv_tokens(struct llama_context_options * options, uint32_t n_tokens);

// Host memory of the cache is taken when it is written, and given back when the cells of a page are free. Device memory is
// not: it is allocated as ever, and llama_kv_stats tells.
LLAMA_API void llama_context_options_set_kv_demand_paged(struct llama_context_options * options, bool demand_paged);

struct llama_kv_stats {
    uint32_t n_caches;            // 2 with a sliding window, 0 without attention
    uint32_t block_size;          // in cells
    uint64_t blocks_total;        // of all caches, as all that follows
    uint64_t blocks_used;
    uint64_t blocks_shared;       // by more than one sequence
    uint64_t cells_total;
    uint64_t cells_used;
    uint64_t max_tokens;          // what llama_context_options_set_kv_tokens gave; 0: no limit but the size
    uint64_t bytes_reserved;      // of the buffers
    uint64_t bytes_committed;     // of these, what takes memory now: all of it where the memory is not demand paged
    uint64_t bytes_used;          // of the cells in use
    double   internal_fragmentation; // 0 to 1: cells of used blocks that hold nothing
    double   external_fragmentation; // 0 to 1: free blocks outside the largest run of free blocks
    bool     demand_paged;        // at least one of the buffers
};

struct llama_kv_seq_stats {
    uint64_t tokens;              // cells of the sequence, in the cache that holds the most
    uint64_t blocks;              // of all caches
    uint64_t blocks_shared;
    uint64_t bytes_own;           // of blocks that no other sequence holds cells in: what leaves with the sequence
    uint64_t bytes_shared;        // of the others
};

LLAMA_API struct llama_kv_stats     llama_kv_get_stats(const struct llama_context * ctx);
LLAMA_API struct llama_kv_seq_stats llama_kv_get_seq_stats(const struct llama_context * ctx, llama_seq_id seq_id);

// The number of tokens that can be decoded for the sequence now, if no other is; INT32_MAX without a limit (no attention).
LLAMA_API int32_t llama_kv_room(const struct llama_context * ctx, llama_seq_id seq_id);

// Whether the next n tokens of the sequence fit. False for a sequence that there is not.
LLAMA_API bool llama_kv_fits(const struct llama_context * ctx, llama_seq_id seq_id, int32_t n_tokens);

// Compares the blocks with the cells, one by one; what differs is logged. For tests and after doubts: it is slow.
LLAMA_API bool llama_kv_check(const struct llama_context * ctx);

#ifdef __cplusplus
}
#endif

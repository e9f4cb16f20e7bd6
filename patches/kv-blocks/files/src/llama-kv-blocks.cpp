#include "llama-kv-blocks.h"

#include "llama-context-options-impl.h"
#include "llama-context.h"
#include "llama-kv-block-tracker.h"

#include <algorithm>

bool llama_context_options_set_kv_block_size(llama_context_options * options, uint32_t n_cells) {
    if (n_cells < 8 || n_cells > 256 || (n_cells & (n_cells - 1)) != 0) {
        return false;
    }
    options->set("kv-blocks.block-size", n_cells);
    return true;
}

void llama_context_options_set_kv_tokens(llama_context_options * options, uint32_t n_tokens) {
    options->set("kv-blocks.tokens", n_tokens);
}

void llama_context_options_set_kv_demand_paged(llama_context_options * options, bool demand_paged) {
    options->set("kv-blocks.demand-paged", demand_paged);
}

llama_kv_stats llama_kv_get_stats(const llama_context * ctx) {
    llama_kv_stats res = {};
    const auto & group = ctx->get_kv_blocks();
    res.block_size   = group.block_size;
    res.max_tokens   = group.max_tokens;
    uint64_t cells_of_used_blocks = 0;
    uint64_t largest_free_runs    = 0;
    for (const auto & tracker : group.trackers()) {
        tracker->settle(); // what a failed decode left
        const auto   blocks = tracker->get_pool().get_stats();
        const auto & pages  = tracker->get_pages();
        res.n_caches++;
        res.blocks_total    += blocks.total;
        res.blocks_used     += blocks.used;
        res.blocks_shared   += blocks.shared;
        res.cells_total     += (uint64_t) tracker->n_stream()*tracker->n_cells();
        res.cells_used      += tracker->cells_used();
        res.bytes_reserved  += pages.reserved();
        res.bytes_committed += pages.committed();
        res.bytes_used      += pages.bytes_per_cell()*tracker->cells_used();
        res.demand_paged    |= pages.paged();
        cells_of_used_blocks += (uint64_t) blocks.used*tracker->block_size();
        largest_free_runs    += blocks.largest_free_run;
    }
    if (cells_of_used_blocks > 0) {
        res.internal_fragmentation = 1.0 - (double) res.cells_used/cells_of_used_blocks;
    }
    if (res.blocks_total > res.blocks_used) {
        res.external_fragmentation = 1.0 - (double) largest_free_runs/(res.blocks_total - res.blocks_used);
    }
    return res;
}

llama_kv_seq_stats llama_kv_get_seq_stats(const llama_context * ctx, llama_seq_id seq_id) {
    llama_kv_seq_stats res = {};
    for (const auto & tracker : ctx->get_kv_blocks().trackers()) {
        const size_t bytes = tracker->get_pages().bytes_per_cell()*tracker->block_size();
        for (const uint32_t block : tracker->get_table().blocks(seq_id)) {
            const bool shared = tracker->get_pool().references(block) > 1;
            res.blocks++;
            res.blocks_shared += shared;
            (shared ? res.bytes_shared : res.bytes_own) += bytes;
        }
        res.tokens = std::max(res.tokens, tracker->cells_of(seq_id));
    }
    return res;
}

int32_t llama_kv_room(const llama_context * ctx, llama_seq_id seq_id) {
    if (seq_id < 0 || seq_id >= (llama_seq_id) ctx->n_seq_max()) {
        return 0;
    }
    int64_t room = INT32_MAX;
    for (const auto & tracker : ctx->get_kv_blocks().trackers()) {
        const uint32_t stream = tracker->n_stream() > 1 ? seq_id : 0;
        room = std::min(room, tracker->room(seq_id, stream, ctx->n_ubatch()));
    }
    return (int32_t) room;
}

bool llama_kv_fits(const llama_context * ctx, llama_seq_id seq_id, int32_t n_tokens) {
    return seq_id >= 0 && seq_id < (llama_seq_id) ctx->n_seq_max() && n_tokens >= 0 && n_tokens <= llama_kv_room(ctx, seq_id);
}

bool llama_kv_check(const llama_context * ctx) {
    bool same = true;
    for (const auto & tracker : ctx->get_kv_blocks().trackers()) {
        same &= tracker->check();
    }
    return same;
}

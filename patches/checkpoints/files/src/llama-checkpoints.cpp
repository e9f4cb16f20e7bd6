#include "llama-checkpoints.h"

#include "llama-checkpoint-set.h"
#include "llama-context.h"
#include "llama-impl.h"

#include <algorithm>

bool llama_memory_checkpoint_supported(const llama_context * ctx) {
    return ctx->get_checkpoints() != nullptr;
}

llama_checkpoint_id llama_memory_checkpoint_save(llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags, llama_checkpoint_place place) {
    return llama_memory_checkpoint_replace(ctx, 0, seq_id, flags, place);
}

llama_checkpoint_id llama_memory_checkpoint_replace(
        llama_context * ctx, llama_checkpoint_id id, llama_seq_id seq_id, llama_state_seq_flags flags, llama_checkpoint_place place) {
    llama_checkpoint_set * set = ctx->get_checkpoints();
    if (!set) {
        LLAMA_LOG_ERROR("%s: the context has no memory\n", __func__);
        return 0;
    }
    return llama_state_settle(*ctx) ? set->save(id, seq_id, flags, place) : 0;
}

bool llama_memory_checkpoint_restore(llama_context * ctx, llama_checkpoint_id id, llama_seq_id dest_seq_id) {
    llama_checkpoint_set * set = ctx->get_checkpoints();
    if (!set) {
        LLAMA_LOG_ERROR("%s: the context has no memory\n", __func__);
        return false;
    }
    return llama_state_settle(*ctx) && set->restore(id, dest_seq_id);
}

bool llama_memory_checkpoint_delete(llama_context * ctx, llama_checkpoint_id id) {
    llama_checkpoint_set * set = ctx->get_checkpoints();
    return set && set->remove(id);
}

size_t llama_memory_checkpoint_clear(llama_context * ctx, llama_seq_id seq_id) {
    llama_checkpoint_set * set = ctx->get_checkpoints();
    if (!set) {
        return 0;
    }
    const auto ids = set->ids(seq_id);
    for (const llama_checkpoint_id id : ids) {
        set->remove(id);
    }
    return ids.size();
}

size_t llama_memory_checkpoint_count(const llama_context * ctx, llama_seq_id seq_id) {
    const llama_checkpoint_set * set = ctx->get_checkpoints();
    return set ? set->ids(seq_id).size() : 0;
}

size_t llama_memory_checkpoint_ids(const llama_context * ctx, llama_seq_id seq_id, llama_checkpoint_id * ids, size_t n) {
    const llama_checkpoint_set * set = ctx->get_checkpoints();
    if (!set) {
        return 0;
    }
    const auto found = set->ids(seq_id);
    std::copy_n(found.begin(), std::min(n, found.size()), ids);
    return found.size();
}

size_t llama_memory_checkpoint_size(const llama_context * ctx, llama_checkpoint_id id) {
    const llama_checkpoint_set * set = ctx->get_checkpoints();
    if (!set) {
        return 0;
    }
    return id == 0 ? set->size() : set->size(id);
}

llama_seq_id llama_memory_checkpoint_seq_id(const llama_context * ctx, llama_checkpoint_id id) {
    const llama_checkpoint_set * set = ctx->get_checkpoints();
    const llama_saved_state  * state = set ? set->find(id) : nullptr;
    return state ? state->seq_id : -1;
}

llama_pos llama_memory_checkpoint_pos(const llama_context * ctx, llama_checkpoint_id id) {
    const llama_checkpoint_set * set = ctx->get_checkpoints();
    return set ? set->pos(id) : -1;
}

bool llama_memory_checkpoint_on_host(const llama_context * ctx, llama_checkpoint_id id) {
    const llama_checkpoint_set * set = ctx->get_checkpoints();
    const llama_saved_state  * state = set ? set->find(id) : nullptr;
    return state && state->on_host();
}

void llama_memory_checkpoint_limit(llama_context * ctx, size_t max_bytes, size_t max_count, bool evict) {
    if (llama_checkpoint_set * set = ctx->get_checkpoints()) {
        set->max_bytes = max_bytes;
        set->max_count = max_count;
        set->evict     = evict;
    }
}

#include "llama-device-state.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-memory.h"
#include "llama-state-store.h"

// the oldest pin has another name for it
template <typename T> static auto update_memory(T & ctx, int)  -> decltype((void) ctx.memory_update(false))  { ctx.memory_update(false); }
template <typename T> static auto update_memory(T & ctx, long) -> decltype((void) ctx.kv_self_update(false)) { ctx.kv_self_update(false); }

bool llama_state_settle(llama_context & ctx) {
    update_memory(ctx, 0);
    ctx.synchronize();

    // an update that fails is only logged, and tried again by the next decode
    llama_memory_i * memory = ctx.get_memory();
    if (memory && memory->init_update(&ctx, false)->get_status() != LLAMA_MEMORY_STATUS_NO_UPDATE) {
        LLAMA_LOG_ERROR("%s: a shift of the cells could not be carried out, so the state is not whole\n", __func__);
        return false;
    }

    return true;
}

size_t llama_device_state_size(const llama_context * ctx, llama_seq_id seq_id) {
    const llama_state_store * store = ctx->get_state_store();

    return store ? store->blob_bytes(seq_id) : 0;
}

size_t llama_device_state_free(llama_context * ctx, llama_seq_id seq_id) {
    llama_state_store * store = ctx->get_state_store();

    return store ? store->blob_free(seq_id) : 0;
}

void llama_device_state_set_copy(llama_context * ctx, llama_device_state_copy copy) {
    if (llama_state_store * store = ctx->get_state_store()) {
        store->how = copy;
    }
}

llama_device_state_copy llama_device_state_get_copy(const llama_context * ctx) {
    const llama_state_store * store = ctx->get_state_store();

    return store ? store->how : LLAMA_DEVICE_STATE_COPY_AUTO;
}

#include "llama-checkpoint-set.h"

#include "llama-impl.h"
#include "llama-memory.h"

// only what cannot be rewound; the oldest pin has another name for it
static constexpr llama_state_seq_flags PARTIAL = 1;

bool llama_checkpoint_set::admit(size_t bytes, llama_checkpoint_id replaced) {
    const bool replaces = entries.count(replaced) > 0;

    const auto fits = [&]() {
        const size_t count = entries.size() + (replaces ? 0 : 1);
        const size_t total = size() + bytes - (replaces ? size(replaced) : 0);

        return (max_count == 0 || count <= max_count) && (max_bytes == 0 || total <= max_bytes);
    };

    // would it fit alone?
    if (max_bytes != 0 && bytes > max_bytes) {
        LLAMA_LOG_ERROR("%s: a checkpoint of %zu bytes is beyond the limit of %zu\n", __func__, bytes, max_bytes);
        return false;
    }

    while (!fits()) {
        auto oldest = entries.begin();
        if (oldest != entries.end() && oldest->first == replaced) {
            ++oldest;
        }
        if (!evict || oldest == entries.end()) {
            LLAMA_LOG_ERROR("%s: %zu checkpoints of %zu bytes are there, the limits are %zu and %zu: delete some\n",
                    __func__, entries.size(), size(), max_count, max_bytes);
            return false;
        }
        LLAMA_LOG_DEBUG("%s: checkpoint %llu makes room\n", __func__, (unsigned long long) oldest->first);
        remove(oldest->first);
    }

    return true;
}

llama_checkpoint_id llama_checkpoint_set::save(llama_checkpoint_id replaced, llama_seq_id seq_id, llama_state_seq_flags flags, llama_checkpoint_place place) {
    if (replaced != 0 && entries.count(replaced) == 0) {
        LLAMA_LOG_ERROR("%s: there is no checkpoint %llu to replace\n", __func__, (unsigned long long) replaced);
        return 0;
    }

    const llama_state_place where =
        place == LLAMA_CHECKPOINT_HOST   ? llama_state_place::HOST   :
        place == LLAMA_CHECKPOINT_DEVICE ? llama_state_place::DEVICE : llama_state_place::DEVICE_OR_HOST;

    const llama_state_id id = store.save(seq_id, flags, where, replaced, [&](size_t bytes) { return admit(bytes, replaced); });
    if (id == 0) {
        if (!store.find(replaced)) {
            entries.erase(replaced); // it failed when its memory had been taken over
        }
        return 0;
    }

    entries.erase(replaced);
    const bool whole = !(flags & PARTIAL) || store.blob_size(seq_id, flags) == store.blob_size(seq_id, flags & ~PARTIAL);

    entries[id] = { memory.seq_pos_max(seq_id), whole };

    return id;
}

bool llama_checkpoint_set::restore(llama_checkpoint_id id, llama_seq_id dest) {
    const auto it = entries.find(id);
    if (it == entries.end()) {
        LLAMA_LOG_ERROR("%s: there is no checkpoint %llu\n", __func__, (unsigned long long) id);
        return false;
    }

    const auto [pos, whole] = it->second;

    // what a partial checkpoint builds on
    if (!whole && store.valid_seq(dest, __func__) && memory.seq_pos_max(dest) < pos) {
        LLAMA_LOG_ERROR("%s: sequence %d ends at %d, the checkpoint was taken at %d and holds only what cannot be rewound\n",
                __func__, dest, memory.seq_pos_max(dest), pos);
        return false;
    }

    if (!store.restore(id, dest)) {
        return false;
    }

    return whole || memory.seq_rm(dest, pos + 1, -1);
}

bool llama_checkpoint_set::remove(llama_checkpoint_id id) {
    return entries.erase(id) > 0 && store.forget(id);
}

std::vector<llama_checkpoint_id> llama_checkpoint_set::ids(llama_seq_id seq_id) const {
    std::vector<llama_checkpoint_id> res;
    for (const auto & [id, _] : entries) {
        if (seq_id < 0 || store.find(id)->seq_id == seq_id) {
            res.push_back(id);
        }
    }
    return res;
}

const llama_saved_state * llama_checkpoint_set::find(llama_checkpoint_id id) const {
    return entries.count(id) ? store.find(id) : nullptr;
}

size_t llama_checkpoint_set::size(llama_checkpoint_id id) const {
    const llama_saved_state * state = find(id);
    return state ? state->size() : 0;
}

size_t llama_checkpoint_set::size() const {
    size_t res = 0;
    for (const auto & [id, _] : entries) {
        res += size(id);
    }
    return res;
}

llama_pos llama_checkpoint_set::pos(llama_checkpoint_id id) const {
    const auto it = entries.find(id);
    return it == entries.end() ? -1 : it->second.pos;
}

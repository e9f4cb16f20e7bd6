#pragma once

// The checkpoints of a context: which of the saved states they are, and how many there may be.

#include "llama-checkpoints.h"
#include "llama-state-store.h"

#include <map>
#include <vector>

class llama_checkpoint_set {
public:
    llama_checkpoint_set(llama_state_store & store, llama_memory_i & memory) : store(store), memory(memory) {}

    // the context has been synchronized; see llama-checkpoints.h
    llama_checkpoint_id save(llama_checkpoint_id replaced, llama_seq_id seq_id, llama_state_seq_flags flags, llama_checkpoint_place place);

    bool restore(llama_checkpoint_id id, llama_seq_id dest);
    bool remove (llama_checkpoint_id id);

    // oldest first; of all sequences where seq_id < 0
    std::vector<llama_checkpoint_id> ids(llama_seq_id seq_id) const;

    size_t size(llama_checkpoint_id id) const; // bytes
    size_t size() const;

    // nullptr for an id that is no checkpoint
    const llama_saved_state * find(llama_checkpoint_id id) const;

    llama_pos pos(llama_checkpoint_id id) const;

    // 0: none
    size_t max_bytes = 0;
    size_t max_count = 0;
    bool   evict     = false;

private:
    bool admit(size_t bytes, llama_checkpoint_id replaced);

    llama_state_store & store;
    llama_memory_i    & memory;

    struct taken {
        llama_pos pos;   // the last one that was saved
        bool      whole; // a partial one of a memory that has no other part is not partial
    };

    // by id; ids grow, so the oldest is first
    std::map<llama_checkpoint_id, taken> entries;
};

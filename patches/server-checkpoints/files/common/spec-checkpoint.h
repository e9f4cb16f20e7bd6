// Checkpoints of speculative decoding: what a sequence held before the draft, for memories that cannot be rewound.
//
// A checkpoint stays on the device that holds the sequence's memory; in host memory when the device has not enough, or
// when that is wanted. It is taken at every cycle, so its memory is used again until it is cleared.

#pragma once

#include "llama.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

// Number and durations of what was done with checkpoints.
struct common_checkpoint_stats {
    enum kind { SAVE, RESTORE, SEQ_RM, N_KINDS };

    struct item {
        uint64_t n    = 0;
        uint64_t t_us = 0; // microseconds
    };

    std::array<item, N_KINDS> items;

    uint64_t n_host = 0; // saves that lie in host memory although the sequence's memory does not, or as wanted
};

// The state of one sequence of one context. It ends with the context, so it is to be cleared before that.
class common_saved_state {
  public:
    // Save in place of what is held. Returns false when it can be kept nowhere; nothing is held then.
    bool save(llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags, bool on_device);

    // Returns false when the context refuses.
    bool restore(llama_seq_id seq_id, llama_state_seq_flags flags) const;

    void clear();

    bool   empty()   const { return id == 0 && blob.empty(); }
    bool   on_host() const { return host; }
    size_t size()    const { return bytes; } // of tensor data, and of metadata where it lies in host memory

  private:
    bool save_in_context(llama_seq_id seq_id, llama_state_seq_flags flags);
    bool save_as_blob   (llama_seq_id seq_id, llama_state_seq_flags flags);

    void hold(size_t n, bool in_host);

    llama_context * ctx = nullptr;

    uint64_t             id = 0; // of llama-checkpoints.h
    std::vector<uint8_t> blob;   // where there is no id

    size_t bytes = 0;
    bool   host  = false;
};

// What the server keeps for a slot: the states of the target and of the draft model. Aborts when a state can be neither
// saved nor restored in any way.
struct common_spec_checkpoint {
    bool on_device = true;

    int64_t   n_tokens = 0;
    llama_pos pos_min  = 0;
    llama_pos pos_max  = 0;

    common_saved_state data_tgt;
    common_saved_state data_dft;

    // since the last clear()
    mutable common_checkpoint_stats stats;

    size_t size()  const { return data_tgt.size() + data_dft.size(); }
    bool   empty() const { return data_tgt.empty(); }
    void   clear();

    void update_pos(int64_t n_tokens, llama_pos pos_min, llama_pos pos_max);

    void update_tgt(llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags);
    void update_dft(llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags);

    void load_tgt(llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags) const;
    void load_dft(llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags) const;

    // do it, and count it as the removal of rejected tokens
    void seq_rm(const std::function<void()> & remove) const;

    // one line for the log, empty when nothing was saved
    std::string summary() const;

  private:
    void update(common_saved_state & state, llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags);
    void load(const common_saved_state & state, llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags) const;
};

// What all checkpoints of the process have cost, and hold, in Prometheus' text format. May be called from any thread.
std::string common_checkpoint_metrics();

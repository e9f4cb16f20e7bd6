#pragma once

#include <cstdint>

class llama_kv_block_tracker;

// What the cells of a stream tell about themselves. A copy tells nothing: it is not the cache.
struct llama_kv_cells_watch {
    llama_kv_cells_watch() = default;
    llama_kv_cells_watch(const llama_kv_cells_watch &) {}
    llama_kv_cells_watch & operator=(const llama_kv_cells_watch &) { return *this; }

    void gained(uint32_t cell, int32_t seq) const { if (tracker) { tell_gained(cell, seq); } }
    void lost  (uint32_t cell, int32_t seq) const { if (tracker) { tell_lost(cell, seq); } }
    void emptied()                          const { if (tracker) { tell_emptied(); } }
    bool admits_instead(int32_t seq, uint32_t n) const { return !tracker || ask_admits_instead(seq, n); }

    llama_kv_block_tracker * tracker = nullptr;
    uint32_t                 stream  = 0;

private:
    void tell_gained(uint32_t cell, int32_t seq) const;
    void tell_lost  (uint32_t cell, int32_t seq) const;
    void tell_emptied() const;
    bool ask_admits_instead(int32_t seq, uint32_t n) const;
};

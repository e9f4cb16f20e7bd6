#pragma once

#include "llama-kv-block-pool.h"
#include "llama-kv-cells.h"
#include "llama-kv-pages.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

struct llama_cparams;

// What a context asks of its caches, and what they are then: see llama-kv-blocks.h.
class llama_kv_block_group;

// The blocks of one cache. Its cells tell who is in them; from that follow the table of blocks, and the memory: a block is
// committed when its first cell is taken, and given back after its last one is free.
class llama_kv_block_tracker {
public:
    // whether find_slot would take a used cell for a new token
    using reusable_fn = std::function<bool(const llama_kv_cells & cells, uint32_t cell)>;

    llama_kv_block_tracker(
            llama_kv_cells_vec & cells, uint32_t block_size, uint32_t max_tokens, uint32_t window, reusable_fn reusable);
    ~llama_kv_block_tracker();

    void hold(const ggml_tensor * tensor, bool transposed); // a tensor that the cells lie in; null is none

    // from the cells
    void gained(uint32_t stream, uint32_t cell, int32_t seq);
    void lost  (uint32_t stream, uint32_t cell, int32_t seq);
    void emptied(uint32_t stream);

    // from the cache
    void settle();                            // what became free is given back
    void settle_written();                    // and what was written without being used
    void settle_all();                        // and copies that were not carried out are forgotten
    bool admits(uint32_t n_tokens) const;     // by the limit of tokens, not by the free cells
    bool admits_instead(int32_t seq, uint32_t n_tokens) const; // of what only `seq` holds
    void will_copy(uint32_t src, uint32_t dst);
    bool copy(uint32_t src, uint32_t dst);    // the cells of dst from those of src; false: the caller has to, whole
    size_t committed(ggml_backend_buffer_t buffer) const { return pages.committed(buffer); }

    // While one lives, nothing is given back: the cells are tried out.
    struct trial {
        explicit trial(llama_kv_block_tracker * tracker) : tracker(tracker) { if (tracker) { tracker->n_trials++; } }
        ~trial() { if (tracker && --tracker->n_trials == 0) { tracker->settle(); } }
        trial(const trial &) = delete;
        trial & operator=(const trial &) = delete;
        llama_kv_block_tracker * tracker;
    };

    // At its end, also of an attempt that failed, what was written without being used is given back.
    struct sweep {
        explicit sweep(llama_kv_block_tracker * tracker) : tracker(tracker) {}
        ~sweep() { if (tracker) { tracker->settle_all(); } }
        sweep(const sweep &) = delete;
        sweep & operator=(const sweep &) = delete;
        llama_kv_block_tracker * tracker;
    };

    // for llama-kv-blocks.cpp
    bool     knows(int32_t seq) const;
    int64_t  room(int32_t seq, uint32_t stream, uint32_t n_ubatch) const; // tokens; INT32_MAX: as many as you like
    bool     check() const;
    std::string text() const;

    uint32_t n_stream()   const { return (uint32_t) cells.size(); }
    uint32_t n_cells()    const { return n_cells_per_stream; } // of a stream
    uint32_t block_size() const { return n_cells_per_block; }
    uint64_t cells_used() const { return n_used; }
    uint64_t cells_of(int32_t seq) const;
    const llama_block_pool     & get_pool()  const { return pool; }
    const llama_block_table    & get_table() const { return table; }
    const llama_kv_pages       & get_pages() const { return pages; }

private:
    uint32_t block_of(uint32_t stream, uint32_t cell) const { return stream*n_blocks_per_stream + cell/n_cells_per_block; }
    std::vector<uint16_t> & counts_of(int32_t seq);
    void commit (uint32_t block);
    void discard(uint32_t block, uint32_t n);

    llama_kv_cells_vec & cells; // live as long as the tracker: both belong to the cache
    uint32_t    n_cells_per_stream;
    uint32_t    n_cells_per_block;
    uint32_t    n_blocks_per_stream;
    uint32_t    max_tokens;  // 0: no limit
    uint32_t    window;      // of attention, in tokens; 0: all
    reusable_fn reusable;

    llama_block_pool  pool;
    llama_block_table table;
    llama_kv_pages    pages;

    std::vector<std::vector<uint16_t>> counts; // [seq][block]: cells of the block that hold the sequence; empty: none ever did
    std::vector<uint16_t>              n_seqs; // [stream*cells + cell]
    uint64_t                           n_used = 0;

    std::vector<bool>     held;                // [block]: its memory is committed
    std::vector<uint32_t> freed;               // blocks that were, and may be in use again
    std::vector<uint32_t> sources;             // streams that will still be copied from
    int                   n_trials = 0;
};

class llama_kv_block_group {
public:
    explicit llama_kv_block_group(const llama_cparams & cparams);

    // Caches that are made while it lives belong to the group, and are of the size that was asked for.
    struct scope {
        // n_ctx: the setting that caches take their size from, for n_streams of them together; it is put back
        scope(llama_kv_block_group & group, uint32_t & n_ctx, uint32_t n_streams);
        ~scope();
        scope(const scope &) = delete;
        scope & operator=(const scope &) = delete;
        llama_kv_block_group * before;
        uint32_t &             n_ctx;
        const uint32_t         n_ctx_asked; // the positions of the context stay what they are; 0: the size is not limited
    };

    // for the constructor of a cache; without a scope they do as upstream does
    static ggml_backend_buffer_type_t buffer_type(ggml_backend_buffer_type_t buft);
    static std::shared_ptr<llama_kv_block_tracker> track(
            llama_kv_cells_vec & cells, uint32_t window, llama_kv_block_tracker::reusable_fn reusable);

    uint32_t n_streams  = 1;
    uint32_t block_size = 32;
    uint32_t max_tokens = 0;
    bool     demand_paged = false;
    std::vector<std::shared_ptr<llama_kv_block_tracker>> trackers() const;

private:
    uint32_t cells_per_stream(uint32_t n_ctx) const;

    std::vector<std::weak_ptr<llama_kv_block_tracker>> made; // each lives as long as its cache
};

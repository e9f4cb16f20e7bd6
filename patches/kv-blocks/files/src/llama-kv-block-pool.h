#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

// Blocks of equal size, known by number, with a count of references each. Nothing here knows of tensors or of llama.cpp.
// A wrong number, a free block that is released, a taken one that is claimed: false, or nothing, and no change.
class llama_block_pool {
public:
    explicit llama_block_pool(uint32_t n_blocks);

    std::optional<uint32_t> allocate();                 // the lowest free block, with one reference
    bool                    claim(uint32_t block);      // this one
    std::vector<uint32_t>   allocate_many(uint32_t n);  // all, or none: then it is empty
    bool                    share(uint32_t block);      // one reference more
    bool                    release(uint32_t block);    // one less; the last one frees it
    void                    clear();                    // every block is free

    bool     is_free(uint32_t block) const;
    uint32_t references(uint32_t block) const;          // 0 for a free block, and for none
    uint32_t size() const { return (uint32_t) n_refs.size(); }

    struct stats {
        uint32_t total;
        uint32_t used;
        uint32_t shared;            // with more than one reference
        uint32_t peak;              // most that were ever used at once
        uint32_t free_runs;         // free blocks in a row count as one
        uint32_t largest_free_run;  // in blocks
        uint64_t references;
        // 0: all free blocks in one row (or none is free); towards 1: in many short ones
        double fragmentation() const {
            return used == total ? 0.0 : 1.0 - (double) largest_free_run/(total - used);
        }
    };
    stats get_stats() const;

private:
    std::vector<uint32_t> n_refs;
    uint32_t              n_used  = 0;
    uint32_t              n_peak  = 0;
    uint32_t              lowest  = 0; // no block below is free
};

// Which blocks a sequence holds, in order. Every entry is a reference in the pool.
class llama_block_table {
public:
    explicit llama_block_table(llama_block_pool & pool) : pool(pool) {}
    ~llama_block_table() { clear(); }
    llama_block_table(const llama_block_table &) = delete;
    llama_block_table & operator=(const llama_block_table &) = delete;

    bool append(int32_t seq, uint32_t block);                   // takes a reference; a free block is claimed
    bool map   (int32_t seq, uint32_t index, uint32_t block);   // in place of an entry, or as the next one
    bool unmap (int32_t seq, uint32_t block);                   // the entries after it move up
    bool truncate(int32_t seq, uint32_t n);                     // keeps the first n
    void clear(int32_t seq);
    void clear();
    void copy(int32_t src, int32_t dst);                        // dst holds the same blocks, in place of its own

    // Copy on write: the block at the index if there is no other reference to it, else a new one that was put in its place and
    // whose content the caller has to copy. Nothing when the pool is full or there is no such entry.
    std::optional<uint32_t> writable(int32_t seq, uint32_t index);

    const std::vector<uint32_t> & blocks(int32_t seq) const;
    std::vector<int32_t>          sequences() const;            // those that hold a block, ascending
    uint64_t                      mappings() const;             // entries of all sequences
    uint64_t                      copies() const { return n_copies; } // that writable() asked for

private:
    bool take(uint32_t block);

    llama_block_pool &                        pool;
    std::map<int32_t, std::vector<uint32_t>>  entries;          // none is empty
    uint64_t                                  n_copies = 0;
};

// Blocks that n tokens fill.
constexpr uint32_t llama_blocks_for(uint64_t n_tokens, uint32_t block_size) {
    return (uint32_t) ((n_tokens + block_size - 1)/block_size);
}

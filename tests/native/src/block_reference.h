#pragma once

// What the pool and the table of kv-blocks should be, said as plainly as can be: a block's references are counted anew
// from who holds it, each time somebody asks.

#include "llama-kv-block-pool.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

using Refs = std::vector<uint32_t>; // by block

struct Summary {
    uint32_t used = 0, shared = 0, free_runs = 0, largest_free_run = 0;
    uint64_t references = 0;
};

inline Summary summary(const Refs & refs) {
    Summary res;
    std::string picture; // free blocks are dots
    for (const uint32_t n : refs) {
        res.used       += n > 0;
        res.shared     += n > 1;
        res.references += n;
        picture        += n > 0 ? '#' : '.';
    }
    for (size_t at = picture.find('.'); at != std::string::npos; at = picture.find('.', at)) {
        const size_t end = std::min(picture.find('#', at), picture.size());
        res.free_runs++;
        res.largest_free_run = std::max(res.largest_free_run, (uint32_t) (end - at));
        at = end;
    }
    return res;
}

struct Reference {
    const uint32_t n_blocks;

    std::map<int32_t, std::vector<uint32_t>> entries; // of the table
    std::multiset<uint32_t> outside;                  // held through the pool
    uint64_t copies = 0;
    size_t   most   = 0;

    explicit Reference(uint32_t n_blocks) : n_blocks(n_blocks) {}

    Refs references() const {
        Refs res(n_blocks);
        for (const uint32_t block : outside) {
            res[block]++;
        }
        for (const auto & [_, blocks] : entries) {
            for (const uint32_t block : blocks) {
                res[block]++;
            }
        }
        return res;
    }

    std::vector<uint32_t> held(int32_t seq) const {
        const auto found = entries.find(seq);
        return found == entries.end() ? std::vector<uint32_t>() : found->second;
    }

    std::set<uint32_t> unused() const {
        std::set<uint32_t> res;
        const Refs refs = references();
        for (uint32_t block = 0; block < n_blocks; block++) {
            if (refs[block] == 0) {
                res.insert(block);
            }
        }
        return res;
    }

    bool is_used   (uint32_t block) const { return block < n_blocks && references()[block] > 0; }
    bool is_outside(uint32_t block) const { return outside.count(block) > 0; }

    // to be asked after every step, as the most is kept here
    uint32_t peak() {
        most = std::max(most, n_blocks - unused().size());
        return (uint32_t) most;
    }

    // the pool

    std::optional<uint32_t> allocate() {
        const std::vector<uint32_t> one = allocate_many(1);
        return one.empty() ? std::nullopt : std::optional<uint32_t>(one[0]);
    }

    std::vector<uint32_t> allocate_many(uint32_t n) {
        const std::set<uint32_t> all = unused();
        if (all.size() < n) {
            return {};
        }
        const std::vector<uint32_t> res(all.begin(), std::next(all.begin(), n));
        outside.insert(res.begin(), res.end());
        return res;
    }

    bool claim(uint32_t block) {
        const bool can = unused().count(block) > 0;
        if (can) {
            outside.insert(block);
        }
        return can;
    }

    bool share(uint32_t block) {
        const bool can = is_used(block);
        if (can) {
            outside.insert(block);
        }
        return can;
    }

    bool release(uint32_t block) {
        const bool can = is_outside(block);
        if (can) {
            outside.erase(outside.find(block));
        }
        return can;
    }

    void clear_outside() { outside.clear(); }

    // the table; a sequence without entries is no sequence

    bool put(int32_t seq, std::vector<uint32_t> blocks) {
        if (blocks.empty()) {
            entries.erase(seq);
        } else {
            entries[seq] = std::move(blocks);
        }
        return true;
    }

    bool append(int32_t seq, uint32_t block) { return map(seq, (uint32_t) held(seq).size(), block); }

    bool map(int32_t seq, uint32_t index, uint32_t block) {
        std::vector<uint32_t> blocks = held(seq);
        if (block >= n_blocks || index > blocks.size()) {
            return false;
        }
        blocks.resize(std::max(blocks.size(), (size_t) index + 1));
        blocks[index] = block;
        most = std::max(most, n_blocks - unused().size() + unused().count(block)); // before the old one is left
        return put(seq, blocks);
    }

    bool unmap(int32_t seq, uint32_t block) {
        std::vector<uint32_t> blocks = held(seq);
        const auto entry = std::find(blocks.begin(), blocks.end(), block);
        if (entry == blocks.end()) {
            return false;
        }
        blocks.erase(entry);
        return put(seq, blocks);
    }

    bool truncate(int32_t seq, uint32_t n) {
        std::vector<uint32_t> blocks = held(seq);
        if (n > blocks.size()) {
            return false;
        }
        blocks.resize(n);
        return put(seq, blocks);
    }

    void copy(int32_t src, int32_t dst) { put(dst, held(src)); }

    std::optional<uint32_t> writable(int32_t seq, uint32_t index) {
        std::vector<uint32_t> blocks = held(seq);
        if (index >= blocks.size()) {
            return std::nullopt;
        }
        if (references()[blocks[index]] == 1) {
            return blocks[index];
        }
        const std::set<uint32_t> all = unused();
        if (all.empty()) {
            return std::nullopt;
        }
        blocks[index] = *all.begin();
        copies++;
        put(seq, blocks);
        return *all.begin();
    }

    void clear_table() { entries.clear(); }
};

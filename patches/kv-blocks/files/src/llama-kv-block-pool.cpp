#include "llama-kv-block-pool.h"

#include <algorithm>

//
// llama_block_pool
//

llama_block_pool::llama_block_pool(uint32_t n_blocks) : n_refs(n_blocks, 0) {}

std::optional<uint32_t> llama_block_pool::allocate() {
    while (lowest < size() && n_refs[lowest] > 0) {
        lowest++;
    }
    const uint32_t block = lowest;
    return claim(block) ? std::optional<uint32_t>(block) : std::nullopt;
}

bool llama_block_pool::claim(uint32_t block) {
    if (!is_free(block)) {
        return false;
    }
    n_refs[block] = 1;
    n_used++;
    n_peak = std::max(n_peak, n_used);
    return true;
}

std::vector<uint32_t> llama_block_pool::allocate_many(uint32_t n) {
    std::vector<uint32_t> blocks;
    if (n > size() - n_used) {
        return blocks;
    }
    blocks.reserve(n);
    while (blocks.size() < n) {
        blocks.push_back(*allocate());
    }
    return blocks;
}

bool llama_block_pool::share(uint32_t block) {
    if (references(block) == 0 || n_refs[block] == UINT32_MAX) {
        return false;
    }
    n_refs[block]++;
    return true;
}

bool llama_block_pool::release(uint32_t block) {
    if (references(block) == 0) {
        return false;
    }
    if (--n_refs[block] == 0) {
        n_used--;
        lowest = std::min(lowest, block);
    }
    return true;
}

void llama_block_pool::clear() {
    std::fill(n_refs.begin(), n_refs.end(), 0);
    n_used = 0;
    lowest = 0;
}

bool llama_block_pool::is_free(uint32_t block) const {
    return block < size() && n_refs[block] == 0;
}

uint32_t llama_block_pool::references(uint32_t block) const {
    return block < size() ? n_refs[block] : 0;
}

llama_block_pool::stats llama_block_pool::get_stats() const {
    stats    res = { size(), n_used, 0, n_peak, 0, 0, 0 };
    uint32_t run = 0;
    for (const uint32_t n : n_refs) {
        res.references += n;
        res.shared     += n > 1;
        res.free_runs  += n == 0 && run == 0;
        run             = n == 0 ? run + 1 : 0;
        res.largest_free_run = std::max(res.largest_free_run, run);
    }
    return res;
}

//
// llama_block_table
//

bool llama_block_table::take(uint32_t block) {
    return pool.is_free(block) ? pool.claim(block) : pool.share(block);
}

bool llama_block_table::append(int32_t seq, uint32_t block) {
    if (!take(block)) {
        return false;
    }
    entries[seq].push_back(block);
    return true;
}

bool llama_block_table::map(int32_t seq, uint32_t index, uint32_t block) {
    const uint32_t n = (uint32_t) blocks(seq).size();
    if (index >= n) {
        return index == n && append(seq, block);
    }
    if (!take(block)) {
        return false;
    }
    uint32_t & entry = entries[seq][index];
    pool.release(entry);
    entry = block;
    return true;
}

bool llama_block_table::unmap(int32_t seq, uint32_t block) {
    const auto found = entries.find(seq);
    if (found == entries.end()) {
        return false;
    }
    auto &     list  = found->second;
    const auto entry = std::find(list.begin(), list.end(), block);
    if (entry == list.end()) {
        return false;
    }
    list.erase(entry);
    pool.release(block);
    if (list.empty()) {
        entries.erase(found);
    }
    return true;
}

bool llama_block_table::truncate(int32_t seq, uint32_t n) {
    const auto found = entries.find(seq);
    if (n > (found == entries.end() ? 0 : found->second.size())) {
        return false;
    }
    if (found == entries.end()) {
        return true;
    }
    auto & list = found->second;
    while (list.size() > n) {
        pool.release(list.back());
        list.pop_back();
    }
    if (list.empty()) {
        entries.erase(found);
    }
    return true;
}

void llama_block_table::clear(int32_t seq) {
    truncate(seq, 0);
}

void llama_block_table::clear() {
    for (const int32_t seq : sequences()) {
        clear(seq);
    }
}

void llama_block_table::copy(int32_t src, int32_t dst) {
    if (src == dst) {
        return;
    }
    const std::vector<uint32_t> list = blocks(src);
    for (const uint32_t block : list) {
        pool.share(block); // before dst lets go of what may be the same blocks
    }
    clear(dst);
    if (!list.empty()) {
        entries[dst] = list;
    }
}

std::optional<uint32_t> llama_block_table::writable(int32_t seq, uint32_t index) {
    if (index >= blocks(seq).size()) {
        return std::nullopt;
    }
    uint32_t & entry = entries[seq][index];
    if (pool.references(entry) == 1) {
        return entry;
    }
    const auto fresh = pool.allocate();
    if (fresh) {
        pool.release(entry);
        entry = *fresh;
        n_copies++;
    }
    return fresh;
}

const std::vector<uint32_t> & llama_block_table::blocks(int32_t seq) const {
    static const std::vector<uint32_t> none;
    const auto found = entries.find(seq);
    return found == entries.end() ? none : found->second;
}

std::vector<int32_t> llama_block_table::sequences() const {
    std::vector<int32_t> res;
    for (const auto & [seq, _] : entries) {
        res.push_back(seq);
    }
    return res;
}

uint64_t llama_block_table::mappings() const {
    uint64_t n = 0;
    for (const auto & [_, list] : entries) {
        n += list.size();
    }
    return n;
}

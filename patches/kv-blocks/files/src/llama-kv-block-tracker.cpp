#include "llama-kv-block-tracker.h"

#include "llama-cparams.h"
#include "llama-impl.h"

#include "ggml-paged-buffer.h"

#include <algorithm>

//
// llama_kv_cells_watch
//

void llama_kv_cells_watch::tell_gained(uint32_t cell, int32_t seq) const { tracker->gained(stream, cell, seq); }
void llama_kv_cells_watch::tell_lost  (uint32_t cell, int32_t seq) const { tracker->lost  (stream, cell, seq); }
void llama_kv_cells_watch::tell_emptied() const { tracker->emptied(stream); }
bool llama_kv_cells_watch::ask_admits_instead(int32_t seq, uint32_t n) const { return tracker->admits_instead(seq, n); }

//
// llama_kv_block_tracker
//

llama_kv_block_tracker::llama_kv_block_tracker(
        llama_kv_cells_vec & cells, uint32_t block_size, uint32_t max_tokens, uint32_t window, reusable_fn reusable) :
    cells(cells),
    n_cells_per_stream(cells[0].size()),
    n_cells_per_block(block_size),
    n_blocks_per_stream(llama_blocks_for(n_cells_per_stream, block_size)),
    max_tokens(max_tokens), window(window), reusable(std::move(reusable)),
    pool(n_stream()*n_blocks_per_stream), table(pool),
    counts(LLAMA_MAX_SEQ),
    n_seqs((size_t) n_stream()*n_cells_per_stream),
    held(pool.size()) {
    for (uint32_t s = 0; s < n_stream(); ++s) {
        auto & watch = cells[s].watch;
        watch.tracker = this;
        watch.stream  = s;
    }
}

llama_kv_block_tracker::~llama_kv_block_tracker() {
    for (auto & of_stream : cells) {
        of_stream.watch.tracker = nullptr; // another cache may share them, and live longer
    }
}

void llama_kv_block_tracker::hold(const ggml_tensor * tensor, bool transposed) {
    if (tensor) {
        pages.add(tensor, transposed, n_stream(), n_cells_per_stream);
    }
}

std::vector<uint16_t> & llama_kv_block_tracker::counts_of(int32_t seq) {
    auto & of_seq = counts[seq];
    if (of_seq.empty()) {
        of_seq.resize(pool.size());
    }
    return of_seq;
}

void llama_kv_block_tracker::gained(uint32_t stream, uint32_t cell, int32_t seq) {
    const uint32_t block = block_of(stream, cell);
    if (counts_of(seq)[block]++ == 0) {
        if (!held[block]) {
            commit(block);
        }
        table.append(seq, block);
    }
    n_used += n_seqs[(size_t) stream*n_cells_per_stream + cell]++ == 0;
}

void llama_kv_block_tracker::lost(uint32_t stream, uint32_t cell, int32_t seq) {
    const uint32_t block = block_of(stream, cell);
    if (--counts_of(seq)[block] == 0) {
        table.unmap(seq, block);
        if (pool.is_free(block)) {
            freed.push_back(block);
        }
    }
    n_used -= --n_seqs[(size_t) stream*n_cells_per_stream + cell] == 0;
}

void llama_kv_block_tracker::emptied(uint32_t stream) {
    for (const int32_t seq : table.sequences()) {
        const std::vector<uint32_t> blocks = table.blocks(seq);
        for (const uint32_t block : blocks) {
            if (block/n_blocks_per_stream == stream) {
                counts[seq][block] = 0;
                table.unmap(seq, block);
                freed.push_back(block);
            }
        }
    }
    const auto begin = n_seqs.begin() + (size_t) stream*n_cells_per_stream;
    n_used -= std::count_if(begin, begin + n_cells_per_stream, [](uint16_t n) { return n > 0; });
    std::fill(begin, begin + n_cells_per_stream, 0);
}

void llama_kv_block_tracker::commit(uint32_t block) {
    const uint32_t cell = block % n_blocks_per_stream*n_cells_per_block;
    pages.commit(block/n_blocks_per_stream, cell, std::min(n_cells_per_block, n_cells_per_stream - cell));
    held[block] = true;
}

// n blocks of one stream
void llama_kv_block_tracker::discard(uint32_t block, uint32_t n) {
    const uint32_t cell = block % n_blocks_per_stream*n_cells_per_block;
    pages.discard(block/n_blocks_per_stream, cell, std::min(n*n_cells_per_block, n_cells_per_stream - cell));
    std::fill_n(held.begin() + block, n, false);
}

void llama_kv_block_tracker::settle() {
    if (n_trials > 0 || freed.empty()) {
        return;
    }
    if (n_used == 0) {
        sources.clear(); // nobody will read the copies
    }
    std::vector<uint32_t> later;
    std::sort(freed.begin(), freed.end());
    for (size_t i = 0; i < freed.size(); ) {
        const uint32_t block  = freed[i];
        const uint32_t stream = block/n_blocks_per_stream;
        if (!pool.is_free(block) || !held[block]) {
            i++;
        } else if (std::find(sources.begin(), sources.end(), stream) != sources.end()) {
            later.push_back(freed[i++]);
        } else {
            uint32_t n = 0; // neighbours at once: fewer calls of the system
            while (i < freed.size() && freed[i] <= block + n && freed[i]/n_blocks_per_stream == stream && pool.is_free(freed[i]) && held[freed[i]]) {
                n += freed[i++] == block + n;
            }
            discard(block, n);
        }
    }
    freed = std::move(later);
}

void llama_kv_block_tracker::settle_written() {
    settle();
    pages.sweep();
}

void llama_kv_block_tracker::settle_all() {
    sources.clear();
    settle_written();
}

bool llama_kv_block_tracker::admits(uint32_t n_tokens) const {
    if (max_tokens == 0 || window > 0 || n_used + n_tokens <= max_tokens) {
        return true;
    }
    LLAMA_LOG_WARN("%s: %u more tokens would make more than the %u that the cache is limited to: %llu are in it\n",
            __func__, n_tokens, max_tokens, (unsigned long long) n_used);
    return false;
}

bool llama_kv_block_tracker::admits_instead(int32_t seq, uint32_t n_tokens) const {
    if (max_tokens == 0 || window > 0 || n_used + n_tokens <= max_tokens) {
        return true;
    }
    uint64_t own = 0;
    for (const auto & of_stream : cells) {
        for (uint32_t i = 0; i < of_stream.size(); ++i) {
            own += of_stream.seq_has(i, seq) && of_stream.seq_count(i) == 1;
        }
    }
    return n_used - own + n_tokens <= max_tokens;
}

void llama_kv_block_tracker::will_copy(uint32_t src, uint32_t dst) {
    GGML_UNUSED(dst);
    sources.push_back(src);
}

bool llama_kv_block_tracker::copy(uint32_t src, uint32_t dst) {
    if (!pages.paged()) {
        return false;
    }
    const uint32_t first = dst*n_blocks_per_stream;
    for (uint32_t b = 0; b < n_blocks_per_stream; ++b) {
        const uint32_t cell = b*n_cells_per_block;
        // also what is free by now: it may be copied on
        if (held[first + b] && !pages.copy(src, dst, cell, std::min(n_cells_per_block, n_cells_per_stream - cell))) {
            return false;
        }
    }
    return true;
}

bool llama_kv_block_tracker::knows(int32_t seq) const {
    return seq >= 0 && seq < (int32_t) counts.size();
}

uint64_t llama_kv_block_tracker::cells_of(int32_t seq) const {
    uint64_t n = 0;
    if (knows(seq)) {
        for (const uint32_t block : table.blocks(seq)) {
            n += counts[seq][block];
        }
    }
    return n;
}

int64_t llama_kv_block_tracker::room(int32_t seq, uint32_t stream, uint32_t n_ubatch) const {
    const llama_kv_cells & of_stream = cells[stream];
    if (window == 0) {
        const int64_t in_stream = (int64_t) n_cells_per_stream - of_stream.get_used();
        return max_tokens == 0 ? in_stream : std::min(in_stream, std::max<int64_t>(0, (int64_t) max_tokens - (int64_t) n_used));
    }
    // cells leave the window as their sequence goes on: only those of others stay where they are
    int64_t usable = 0;
    int64_t pinned = 0;
    for (uint32_t i = 0; i < of_stream.size(); ++i) {
        if (of_stream.is_empty(i) || reusable(of_stream, i)) {
            usable++;
        } else if (!of_stream.seq_has(i, seq) || of_stream.seq_count(i) > 1) {
            pinned++;
        }
    }
    const bool rolls = (int64_t) of_stream.size() - pinned >= (int64_t) window + n_ubatch;
    return rolls ? INT32_MAX : usable;
}

bool llama_kv_block_tracker::check() const {
    bool     same = true;
    uint64_t used = 0;
    const auto differs = [&](const char * what, uint32_t where, uint64_t here, uint64_t there) {
        LLAMA_LOG_ERROR("%s: %s of block %u: %llu in the table, %llu in the cells\n", __func__, what, where,
                (unsigned long long) here, (unsigned long long) there);
        same = false;
    };
    for (uint32_t s = 0; s < n_stream(); ++s) {
        const llama_kv_cells & of_stream = cells[s];
        for (uint32_t b = 0; b < n_blocks_per_stream; ++b) {
            const uint32_t block = s*n_blocks_per_stream + b;
            std::vector<uint16_t> found(counts.size());
            for (uint32_t i = b*n_cells_per_block; i < std::min((b + 1)*n_cells_per_block, n_cells_per_stream); ++i) {
                uint16_t n = 0;
                for (size_t seq = 0; !of_stream.is_empty(i) && seq < found.size(); ++seq) {
                    const bool has = of_stream.seq_has(i, (int32_t) seq);
                    found[seq] += has;
                    n          += has;
                }
                used += n > 0;
                if (n_seqs[(size_t) s*n_cells_per_stream + i] != n) {
                    differs("the sequences of a cell", block, n_seqs[(size_t) s*n_cells_per_stream + i], n);
                }
            }
            uint32_t refs = 0;
            for (size_t seq = 0; seq < found.size(); ++seq) {
                const uint16_t count = counts[seq].empty() ? 0 : counts[seq][block];
                refs += found[seq] > 0;
                if (count != found[seq]) {
                    differs("cells", block, count, found[seq]);
                }
                if (found[seq] > 0) {
                    const auto & blocks = table.blocks((int32_t) seq);
                    const auto   n      = std::count(blocks.begin(), blocks.end(), block);
                    if (n != 1) {
                        differs("entries", block, n, 1);
                    }
                }
            }
            if (refs != pool.references(block)) {
                differs("references", block, pool.references(block), refs);
            }
        }
    }
    if (used != n_used) {
        differs("cells of all", 0, n_used, used);
    }
    if (table.mappings() != pool.get_stats().references) {
        differs("references of all", 0, pool.get_stats().references, table.mappings());
    }
    return same;
}

std::string llama_kv_block_tracker::text() const {
    const auto stats = pool.get_stats();
    return format("%u of %u blocks of %u cells, %u shared, %llu cells, %.2f of %.2f MiB",
            stats.used, stats.total, n_cells_per_block, stats.shared, (unsigned long long) n_used,
            pages.committed()/1024.0/1024.0, pages.reserved()/1024.0/1024.0);
}

//
// llama_kv_block_group
//

static thread_local llama_kv_block_group * current = nullptr;

llama_kv_block_group::scope::scope(llama_kv_block_group & group, uint32_t & n_ctx, uint32_t n_streams) :
    before(current), n_ctx(n_ctx), n_ctx_asked(group.max_tokens == 0 ? 0 : n_ctx) {
    current = &group;
    if (n_ctx_asked > 0) {
        n_ctx = group.cells_per_stream(n_ctx/n_streams)*n_streams;
    }
}

llama_kv_block_group::scope::~scope() {
    current = before;
    if (n_ctx_asked > 0) {
        n_ctx = n_ctx_asked;
    }
}

llama_kv_block_group::llama_kv_block_group(const llama_cparams & cparams) :
    n_streams   (cparams.kv_unified ? 1 : cparams.n_seq_max),
    block_size  ((uint32_t) cparams.options.get("kv-blocks.block-size", 32)),
    max_tokens  ((uint32_t) cparams.options.get("kv-blocks.tokens", 0)),
    demand_paged(cparams.options.get("kv-blocks.demand-paged", 0) != 0) {
    if (demand_paged && !ggml_backend_paged_buffer_type()) {
        LLAMA_LOG_WARN("%s: this system cannot give back pages: the cache is allocated whole\n", __func__);
        demand_paged = false;
    }
}

uint32_t llama_kv_block_group::cells_per_stream(uint32_t n_ctx) const {
    // where memory is taken as it is used every sequence may grow to the limit; else they share it out
    const uint64_t wanted = llama_blocks_for(max_tokens, demand_paged ? 1 : n_streams);
    return (uint32_t) std::min<uint64_t>(n_ctx, GGML_PAD(wanted, 256));
}

ggml_backend_buffer_type_t llama_kv_block_group::buffer_type(ggml_backend_buffer_type_t buft) {
    if (!current || !current->demand_paged) {
        return buft;
    }
    if (buft != ggml_backend_cpu_buffer_type()) {
        LLAMA_LOG_DEBUG("%s: %s is not host memory: allocated whole\n", __func__, ggml_backend_buft_name(buft));
        return buft;
    }
    return ggml_backend_paged_buffer_type();
}

std::shared_ptr<llama_kv_block_tracker> llama_kv_block_group::track(
        llama_kv_cells_vec & cells, uint32_t window, llama_kv_block_tracker::reusable_fn reusable) {
    if (!current) {
        return nullptr;
    }
    auto tracker = std::make_shared<llama_kv_block_tracker>(
            cells, current->block_size, current->max_tokens, window, std::move(reusable));
    current->made.push_back(tracker);
    return tracker;
}

std::vector<std::shared_ptr<llama_kv_block_tracker>> llama_kv_block_group::trackers() const {
    std::vector<std::shared_ptr<llama_kv_block_tracker>> res;
    for (const auto & one : made) {
        if (auto tracker = one.lock()) {
            res.push_back(std::move(tracker));
        }
    }
    return res;
}

#pragma once

// What a KV cache and a saved state tell each other of the cells. For the memory modules.

#include "llama.h"

#include "llama-io.h"

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

// What a KV cache says of its cells when it is saved, beside what it writes: which they are, from inclusive, to exclusive,
// where it would look for the next one, and whether as many would fit for a sequence now, its own cells being free.
struct llama_state_cells {
    std::vector<std::pair<uint32_t, uint32_t>> ranges;

    uint32_t head;

    std::function<bool(llama_seq_id dest)> fit;
};

// Called by a KV cache for each stream that it writes, before the metadata. Does nothing unless the state stays on the device.
void llama_state_note_cells(
        llama_io_write_i                                 & io,
        const std::vector<std::pair<uint32_t, uint32_t>> & ranges,
        uint32_t                                           head,
        std::function<bool(llama_seq_id)>                  fit);

// Whether the state stays on the device. All that a sequence has is kept then, also cells that have left its window: the
// cache looks for free cells as it would have, and tokens can be removed from the end as before.
bool llama_state_stays(const llama_io_write_i & io);

// Called by a KV cache for each stream that it reads, before the metadata. nullptr unless the state comes from the device.
const llama_state_cells * llama_state_noted_cells(llama_io_read_i & io);

// Would n cells fit for dest? Those that only dest uses count as free. `reusable` says that a cell in use may be taken.
// n neighbours are wanted where `contiguous`.
template <typename cells_t, typename reusable_t>
bool llama_state_cells_fit(const cells_t & cells, llama_seq_id dest, uint32_t n, bool contiguous, const reusable_t & reusable) {
#if __has_include("llama-kv-cells-watch.h") // kv-blocks limits how many tokens the streams hold together
    if (!cells.watch.admits_instead(dest, n)) {
        return false;
    }
#endif
    uint32_t found = 0;

    for (uint32_t i = 0; i < cells.size() && found < n; ++i) {
        if (cells.is_empty(i) || (cells.seq_count(i) == 1 && (cells.seq_has(i, dest) || reusable(i)))) {
            ++found;
        } else if (contiguous) {
            found = 0;
        }
    }

    return found >= n;
}

// The cells that were saved, when they all are free; else nothing. With the head where it was, sums over the cache then run
// in the same order, so the logits are the same to the bit.
template <typename cells_t>
std::vector<uint32_t> llama_state_same_cells(const llama_state_cells * saved, const cells_t & cells, uint32_t n) {
    std::vector<uint32_t> res;
    if (!saved) {
        return res;
    }

    res.reserve(n);
    for (const auto & range : saved->ranges) {
        for (uint32_t i = range.first; i < range.second; ++i) {
            if (i >= cells.size() || !cells.is_empty(i)) {
                return {};
            }
            res.push_back(i);
        }
    }

    return res.size() == n ? res : std::vector<uint32_t>();
}

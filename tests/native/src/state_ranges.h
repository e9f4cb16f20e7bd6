#pragma once

// Ranges of tensors as memory modules name them, and worse ones; and what their packed bytes are, byte by byte.

#include "check.h"
#include "llama-state-copy.h"

#include <algorithm>
#include <utility>
#include <vector>

using Ranges = std::vector<llama_state_range>;
using Blocks = std::vector<llama_state_block>;
using Byte   = std::pair<ggml_tensor *, size_t>; // where a byte lies

// The definition: packed bytes are the ranges' bytes, one range after the other.
inline std::vector<Byte> packed_bytes(const Ranges & ranges) {
    std::vector<Byte> res;
    for (const auto & range : ranges) {
        for (size_t i = 0; i < range.size; i++) {
            res.emplace_back(range.tensor, range.offset + i);
        }
    }
    return res;
}

inline size_t bytes_of(const Ranges & ranges) {
    size_t res = 0;
    for (const auto & range : ranges) {
        res += range.size;
    }
    return res;
}

// The same bytes in the same order, in other portions, with empty ones among them.
inline Ranges in_other_portions(Random & random, const Ranges & ranges) {
    Ranges res;
    for (auto range : ranges) {
        while (range.size > 0) {
            const size_t size = random.once_in(3) ? range.size : random.pick(0, range.size);
            res.push_back({range.tensor, range.offset, size});
            range.offset += size;
            range.size -= size;
        }
    }
    return res;
}

// Pieces [first, last) of n cells: rising, never touching each other unless `touching`.
inline std::vector<std::pair<size_t, size_t>> pieces_of(Random & random, size_t n, size_t most, bool touching) {
    std::vector<std::pair<size_t, size_t>> res;
    for (size_t at = random.pick(0, 2); at < n && res.size() < most;) {
        const size_t end = std::min(n, at + random.pick(1, 1 + n / most));
        res.emplace_back(at, end);
        at = end + (touching && random.once_in(2) ? 0 : random.pick(1, 3));
    }
    return res;
}

// Cells of one sequence in a tensor of `bytes`: rows of K, or columns of a transposed V.
inline Ranges cells_of(ggml_tensor * tensor, size_t bytes, const std::vector<std::pair<size_t, size_t>> & pieces, size_t n_cells, size_t element,
        bool transposed) {
    Ranges res;
    const size_t n_rows = transposed ? bytes / (n_cells * element) : 1;
    for (size_t row = 0; row < n_rows; row++) {
        for (const auto & [first, last] : pieces) {
            res.push_back({tensor, (row * n_cells + first) * element, (last - first) * element});
        }
    }
    return res;
}

// Ranges over tensors of `bytes` each. No byte twice where `apart` (restoring such would depend on the order).
// `unit` divides every offset and size.
inline Ranges random_ranges(Random & random, const std::vector<ggml_tensor *> & tensors, size_t bytes, bool apart, size_t unit = 1) {
    Ranges res;
    const size_t shape    = random.pick(0, 3);
    const size_t element  = unit * random.pick(1, 5);
    const size_t n_cells  = random.pick(1, std::min<size_t>(40, bytes / element));
    const auto   pieces   = pieces_of(random, n_cells, random.pick(1, 6), random.once_in(2));
    for (ggml_tensor * tensor : tensors) {
        switch (shape) {
            case 0: // K, then V as it is, cells in pieces
            case 1: { // or transposed
                const Ranges more = cells_of(tensor, bytes, pieces, n_cells, element, shape == 1 || random.once_in(2));
                res.insert(res.end(), more.begin(), more.end());
                break;
            }
            case 2: // whatever, from left to right, often adjacent
                for (size_t at = 0; at < bytes / unit;) {
                    const size_t size = std::min(bytes / unit - at, random.pick(0, 9));
                    res.push_back({tensor, at * unit, size * unit});
                    at += size + (random.once_in(2) ? 0 : random.pick(1, 20));
                }
                break;
            default: // one unit here and there, by turns from all tensors
                for (size_t i = 0; i < 12; i++) {
                    res.push_back({tensors[random.pick(0, tensors.size() - 1)], unit * random.pick(0, bytes / unit - 1), unit});
                }
        }
    }
    if (!apart && random.once_in(3)) {
        std::shuffle(res.begin(), res.end(), random.engine);
    } else if (!apart && random.once_in(3)) {
        std::reverse(res.begin(), res.end());
    }
    if (apart) {
        std::vector<Byte> seen;
        Ranges            once;
        for (const auto & range : res) {
            bool fresh = true;
            for (size_t i = 0; i < range.size; i++) {
                fresh = fresh && std::find(seen.begin(), seen.end(), Byte(range.tensor, range.offset + i)) == seen.end();
            }
            if (fresh) {
                once.push_back(range);
                for (size_t i = 0; i < range.size; i++) {
                    seen.emplace_back(range.tensor, range.offset + i);
                }
            }
        }
        res = once;
    }
    return res;
}

// The blocks are those bytes, each packed byte once.
inline void check_blocks(const Blocks & blocks, const std::vector<Byte> & expected, size_t limit) {
    std::vector<int> seen(expected.size(), 0);
    for (const auto & block : blocks) {
        CHECK(block.width > 0 && block.count > 0, "an empty block: %zu x %zu", block.count, block.width);
        for (size_t row = 0; row < block.count; row++) {
            const size_t packed = block.packed + row * block.packed_pitch;
            CHECK(packed / limit == (packed + block.width - 1) / limit, "a row of %zu at %zu crosses a multiple of %zu", block.width, packed, limit);
            for (size_t i = 0; i < block.width; i++) {
                CHECK(packed + i < expected.size(), "packed byte %zu of %zu", packed + i, expected.size());
                CHECK(seen[packed + i]++ == 0, "packed byte %zu is written twice", packed + i);
                const Byte byte(block.tensor, block.offset + row * block.pitch + i);
                CHECK(byte == expected[packed + i], "packed byte %zu: offset %zu instead of %zu", packed + i, byte.second, expected[packed + i].second);
            }
        }
    }
    for (size_t i = 0; i < seen.size(); i++) {
        CHECK(seen[i] == 1, "packed byte %zu of %zu is never written", i, seen.size());
    }
}

// Joined, they are the same copies, and none is left that could be one with the one before.
inline void check_joined(const Blocks & blocks) {
    const auto copies = [](const Blocks & some) {
        std::vector<std::pair<const char *, size_t>> res; // where a byte lies, and its place when packed
        for (const auto & block : some) {
            for (size_t row = 0; row < block.count; row++) {
                for (size_t i = 0; i < block.width; i++) {
                    res.emplace_back((const char *) block.tensor->data + block.offset + row * block.pitch + i, block.packed + row * block.packed_pitch + i);
                }
            }
        }
        return res;
    };
    const Blocks joined = llama_state_join(blocks);
    CHECK(copies(joined) == copies(blocks), "%zu blocks, joined to %zu, are other copies", blocks.size(), joined.size());
    for (size_t i = 1; i < joined.size(); i++) {
        const auto & a = joined[i - 1];
        const auto & b = joined[i];
        const bool follows = (char *) a.tensor->data + a.offset + a.width == (char *) b.tensor->data + b.offset && a.packed + a.width == b.packed;
        CHECK(a.count > 1 || b.count > 1 || !follows || a.tensor->buffer != b.tensor->buffer, "blocks %zu and %zu could be one", i - 1, i);
    }
}

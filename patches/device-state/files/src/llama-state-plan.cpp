#include "llama-state-plan.h"

#include <algorithm>

// The widest pattern of rows that is looked for: a sequence whose cells lie in so many pieces.
static constexpr size_t MAX_PERIOD = 64;

static std::vector<llama_state_range> merge_adjacent(const std::vector<llama_state_range> & ranges) {
    std::vector<llama_state_range> res;
    res.reserve(ranges.size());

    for (const auto & range : ranges) {
        if (range.size == 0) {
            continue;
        }
        if (!res.empty() && res.back().tensor == range.tensor && res.back().offset + res.back().size == range.offset) {
            res.back().size += range.size;
        } else {
            res.push_back(range);
        }
    }

    return res;
}

// Do the n ranges from b on repeat those from a on, one pitch further?
static bool repeats(const llama_state_range * a, const llama_state_range * b, size_t n, size_t pitch) {
    for (size_t i = 0; i < n; ++i) {
        if (a[i].size != b[i].size || b[i].offset != a[i].offset + pitch) {
            return false;
        }
    }
    return true;
}

// The ranges begin with `count` repetitions of the first `period` ones; {1, 1} when nothing repeats.
struct pattern_t {
    size_t period;
    size_t count;
};

// The pattern with the most rows in a block. The first one found would not do: every second cell of a transposed V repeats
// after one range up to the end of a row, and after a row's number of ranges up to the end of the tensor.
static pattern_t find_pattern(const llama_state_range * ranges, size_t n) {
    pattern_t best = { 1, 1 };

    for (size_t period = 1; period <= MAX_PERIOD && n/period > best.count; ++period) {
        const auto & next = ranges[period];

        if (next.offset <= ranges[period - 1].offset || next.offset <= ranges[0].offset) {
            continue;
        }

        const size_t pitch = next.offset - ranges[0].offset;

        size_t count = 1;
        while ((count + 1)*period <= n && repeats(ranges + (count - 1)*period, ranges + count*period, period, pitch)) {
            ++count;
        }
        if (count > best.count) {
            best = { period, count };
        }
    }

    return best;
}

std::vector<llama_state_block> llama_state_plan(const std::vector<llama_state_range> & ranges) {
    const std::vector<llama_state_range> merged = merge_adjacent(ranges);

    std::vector<llama_state_block> blocks;

    size_t packed = 0;

    for (size_t i = 0; i < merged.size();) {
        size_t end = i + 1; // of this tensor's ranges
        while (end < merged.size() && merged[end].tensor == merged[i].tensor) {
            ++end;
        }

        while (i < end) {
            const llama_state_range * first = &merged[i];

            const auto [period, count] = find_pattern(first, end - i);
            const size_t pitch = count > 1 ? first[period].offset - first->offset : 0;

            size_t packed_pitch = 0;
            for (size_t j = 0; j < period; ++j) {
                packed_pitch += first[j].size;
            }

            size_t packed_row = packed;
            for (size_t j = 0; j < period; ++j) {
                blocks.push_back({first[j].tensor, first[j].offset, pitch, packed_row, packed_pitch, first[j].size, count});
                packed_row += first[j].size;
            }

            packed += packed_pitch*count;
            i      += period*count;
        }
    }

    return blocks;
}

std::vector<llama_state_block> llama_state_join(const std::vector<llama_state_block> & blocks) {
    std::vector<llama_state_block> res;
    res.reserve(blocks.size());

    const auto data = [](const llama_state_block & block) {
        return (const char *) block.tensor->data + block.offset;
    };

    for (const auto & block : blocks) {
        llama_state_block * last = res.empty() ? nullptr : &res.back();

        if (last && last->count == 1 && block.count == 1 && last->packed + last->width == block.packed &&
                data(*last) + last->width == data(block) && llama_state_buffer_of(last->tensor) == llama_state_buffer_of(block.tensor)) {
            last->width += block.width;
            last->packed_pitch = last->width;
        } else {
            res.push_back(block);
        }
    }

    return res;
}

std::vector<llama_state_block> llama_state_cut(const std::vector<llama_state_block> & blocks, size_t limit) {
    std::vector<llama_state_block> res;
    res.reserve(blocks.size());

    const auto rows = [](const llama_state_block & block, size_t first, size_t count) {
        llama_state_block part = block;
        part.offset += first*block.pitch;
        part.packed += first*block.packed_pitch;
        part.count   = count;
        return part;
    };

    for (const auto & block : blocks) {
        size_t row = 0;

        while (row < block.count) {
            const size_t begin = block.packed + row*block.packed_pitch;
            const size_t end   = (begin/limit + 1)*limit;

            // rows that end before the boundary
            size_t n = 0;
            if (begin + block.width <= end) {
                n = block.count - row;
                if (block.packed_pitch > 0) {
                    n = std::min(n, (end - begin - block.width)/block.packed_pitch + 1);
                }
            }

            if (n > 0) {
                res.push_back(rows(block, row, n));
                row += n;
                continue;
            }

            // a row across one boundary or more
            llama_state_block part = rows(block, row, 1);
            size_t left = block.width;
            while (left > 0) {
                part.width = std::min(left, (part.packed/limit + 1)*limit - part.packed);
                res.push_back(part);
                part.offset += part.width;
                part.packed += part.width;
                left        -= part.width;
            }
            ++row;
        }
    }

    return res;
}

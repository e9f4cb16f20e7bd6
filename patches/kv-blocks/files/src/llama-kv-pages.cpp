#include "llama-kv-pages.h"

#include "ggml.h"
#include "ggml-paged-buffer.h"

#include <algorithm>
#include <cstring>

void llama_kv_pages::add(const ggml_tensor * tensor, bool transposed, uint32_t n_stream, uint32_t n_cells) {
    const size_t cell_bytes = ggml_row_size(tensor->type, tensor->ne[0]);
    n_bytes          += ggml_nbytes(tensor);
    n_bytes_per_cell += cell_bytes;

    ggml_backend_buffer_t buffer = tensor->buffer;
    const bool is_host = buffer && tensor->data && ggml_backend_buffer_is_host(buffer);
    const bool is_paged = is_host && ggml_backend_buffer_is_paged(buffer);

    region where = { buffer, nullptr, 0, tensor->nb[2], 1, 0, cell_bytes };
    if (is_host) {
        where.base   = (char *) ggml_backend_buffer_get_base(buffer);
        where.offset = (char *) tensor->data - where.base;
    }
    if (transposed) {
        where.rows       = tensor->ne[0];
        where.cell_bytes = ggml_type_size(tensor->type);
        where.row_stride = n_cells*where.cell_bytes;
    }
    GGML_ASSERT(n_stream == 1 || tensor->ne[2] == n_stream);
    regions.push_back(where);

    if (is_paged) {
        page_map & map = maps[buffer];
        const size_t page = ggml_backend_paged_page_size();
        map.taken.resize((ggml_backend_buffer_get_size(buffer) + page - 1)/page);
        map.used.resize(map.taken.size());
    } else {
        n_bytes_fixed += ggml_nbytes(tensor);
    }
}

template <typename F>
void llama_kv_pages::each_part(const region & where, uint32_t stream, uint32_t cell, uint32_t n, F && visit) {
    const size_t page = ggml_backend_paged_page_size();
    size_t row = where.offset + stream*where.stream_stride + cell*where.cell_bytes;
    for (size_t i = 0; i < where.rows; ++i, row += where.row_stride) {
        const size_t end = row + n*where.cell_bytes;
        for (size_t begin = row; begin < end; ) {
            const size_t next = std::min(end, (begin/page + 1)*page);
            visit(begin/page, (uint32_t) (next - begin));
            begin = next;
        }
    }
}

void llama_kv_pages::commit(uint32_t stream, uint32_t cell, uint32_t n) {
    for (const region & where : regions) {
        const auto found = maps.find(where.buffer);
        if (found == maps.end()) {
            continue;
        }
        page_map & map = found->second;
        each_part(where, stream, cell, n, [&map](size_t page, uint32_t bytes) {
            map.used[page] += bytes;
            map.n_taken    += !map.taken[page];
            map.taken[page] = true;
        });
    }
}

void llama_kv_pages::discard(uint32_t stream, uint32_t cell, uint32_t n) {
    for (const region & where : regions) {
        const auto found = maps.find(where.buffer);
        if (found == maps.end() || n == 0) {
            continue;
        }
        page_map & map = found->second;
        size_t first = SIZE_MAX;
        size_t last  = 0;
        each_part(where, stream, cell, n, [&](size_t page, uint32_t bytes) {
            map.used[page] -= bytes;
            first = std::min(first, page);
            last  = std::max(last, page);
        });
        give_back(where.buffer, map, first, last + 1, false);
    }
}

void llama_kv_pages::sweep() {
    for (auto & [buffer, map] : maps) {
        give_back(buffer, map, 0, map.used.size(), true);
    }
}

// Of these pages those that no committed cell is in; without `all`, if they were taken.
void llama_kv_pages::give_back(ggml_backend_buffer_t buffer, page_map & map, size_t first, size_t last, bool all) {
    const size_t page = ggml_backend_paged_page_size();
    for (size_t begin = first; begin < last; ++begin) {
        size_t end = begin;
        while (end < last && map.used[end] == 0 && (all || map.taken[end])) {
            end++;
        }
        if (end == begin || ggml_backend_paged_discard(buffer, begin*page, (end - begin)*page) == 0) {
            begin = std::max(begin, end); // the system refused: they stay counted
            continue;
        }
        for (; begin < end; ++begin) {
            map.n_taken -= map.taken[begin];
            map.taken[begin] = false;
        }
    }
}

bool llama_kv_pages::copy(uint32_t src, uint32_t dst, uint32_t cell, uint32_t n) {
    for (const region & where : regions) {
        if (!where.base) {
            return false;
        }
    }
    for (const region & where : regions) {
        char * from = where.base + where.offset + src*where.stream_stride + cell*where.cell_bytes;
        char * to   = where.base + where.offset + dst*where.stream_stride + cell*where.cell_bytes;
        for (size_t row = 0; row < where.rows; ++row) {
            memcpy(to + row*where.row_stride, from + row*where.row_stride, n*where.cell_bytes);
        }
    }
    return true;
}

size_t llama_kv_pages::committed(ggml_backend_buffer_t buffer) const {
    const auto found = maps.find(buffer);
    return found == maps.end() ? ggml_backend_buffer_get_size(buffer) : found->second.n_taken*ggml_backend_paged_page_size();
}

size_t llama_kv_pages::committed() const {
    size_t bytes = n_bytes_fixed;
    for (const auto & [_, map] : maps) {
        bytes += map.n_taken*ggml_backend_paged_page_size();
    }
    return bytes;
}

#pragma once

#include "ggml-backend.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

// Where the cells of a cache lie in memory, and which pages of it are taken: those that a committed cell has bytes in.
class llama_kv_pages {
public:
    // a tensor of [n_stream] times [n_cells] cells; transposed: a cell is a column, not a row
    void add(const ggml_tensor * tensor, bool transposed, uint32_t n_stream, uint32_t n_cells);

    bool paged() const { return !maps.empty(); }

    void commit (uint32_t stream, uint32_t cell, uint32_t n);  // the cells may be written; no cell twice
    void discard(uint32_t stream, uint32_t cell, uint32_t n);  // what the cells hold is lost; only committed ones
    void sweep();                                              // pages that were written although no cell is committed there
    bool copy   (uint32_t src, uint32_t dst, uint32_t cell, uint32_t n); // false where it is no host memory

    size_t bytes_per_cell() const { return n_bytes_per_cell; }
    size_t reserved()  const { return n_bytes; }
    size_t committed() const;
    size_t committed(ggml_backend_buffer_t buffer) const; // its size, if it is no paged one

private:
    struct region {
        ggml_backend_buffer_t buffer;
        char * base;          // of the buffer; null: not host memory
        size_t offset;        // of the first cell, in the buffer
        size_t stream_stride; // in bytes, as the rest
        size_t rows;          // stretches of memory that the cells of a stream lie in: 1, or one per column
        size_t row_stride;
        size_t cell_bytes;    // in one stretch
    };

    struct page_map {
        std::vector<bool>     taken;
        std::vector<uint32_t> used;        // bytes of committed cells in a page
        size_t                n_taken = 0;
    };

    static void give_back(ggml_backend_buffer_t buffer, page_map & map, size_t first, size_t last, bool all);
    // of the bytes of a region's cells that lie in a page, row by row
    template <typename F> static void each_part(const region & where, uint32_t stream, uint32_t cell, uint32_t n, F && visit);

    std::vector<region> regions;
    std::map<ggml_backend_buffer_t, page_map> maps; // of the paged buffers
    size_t n_bytes          = 0;
    size_t n_bytes_fixed    = 0; // of tensors in other buffers
    size_t n_bytes_per_cell = 0;
};

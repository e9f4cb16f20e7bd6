#pragma once

// What the memory modules write a state to and read it from when its tensors stay where they are: metadata is kept, tensors
// are named by ranges.

#include "llama-state-cells.h"
#include "llama-state-plan.h"

#include "llama-io.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

// The argument of write_tensor is const at some pins.
template <typename T> T llama_state_tensor_argument(void (llama_io_write_i::*)(T, size_t, size_t));
using llama_state_tensor = decltype(llama_state_tensor_argument(&llama_io_write_i::write_tensor));

struct llama_state_writer : public llama_io_write_i {
    std::vector<uint8_t>           meta;
    std::vector<llama_state_cells> cells;
    std::vector<llama_state_range> ranges;

    void write(const void * src, size_t size) override {
        const auto * bytes = (const uint8_t *) src;
        meta.insert(meta.end(), bytes, bytes + size);
    }

    void write_tensor(llama_state_tensor tensor, size_t offset, size_t size) override {
        ranges.push_back({const_cast<ggml_tensor *>(tensor), offset, size});
    }

    size_t n_bytes() override {
        return meta.size();
    }
};

// only the size of the metadata
struct llama_state_sizer : public llama_io_write_i {
    size_t size_meta = 0;

    void   write(const void *, size_t size) override { size_meta += size; }
    void   write_tensor(llama_state_tensor, size_t, size_t) override {}
    size_t n_bytes() override { return size_meta; }
};

struct llama_state_reader : public llama_io_read_i {
    llama_state_reader(const std::vector<uint8_t> & meta, const std::vector<llama_state_cells> & cells) : meta(meta), cells(cells) {}

    const std::vector<uint8_t>           & meta;
    const std::vector<llama_state_cells> & cells;

    size_t pos    = 0;
    size_t n_cells = 0; // notes that have been asked for

    std::vector<llama_state_range> ranges;

    // one of these is the interface's, which one depends on the pin
    const uint8_t * read(size_t size) {
        if (size > meta.size() - pos) {
            throw std::runtime_error("the metadata ends too early");
        }
        pos += size;
        return meta.data() + pos - size;
    }

    void read(void * dst, size_t size) { memcpy(dst, read(size), size); }

    void read_to(void * dst, size_t size) { memcpy(dst, read(size), size); }

    void read_tensor(ggml_tensor * tensor, size_t offset, size_t size) override {
        ranges.push_back({tensor, offset, size});
    }

    size_t n_bytes() override {
        return pos;
    }
};

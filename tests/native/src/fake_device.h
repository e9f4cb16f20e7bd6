#pragma once

// A buffer type that behaves like a device's: not host memory, its addresses must not be dereferenced (every buffer starts
// at the same made-up base, as Vulkan's do), and its cpy_tensor reads what the real ones read. It counts its calls.
// Includes the tree's own ggml-backend-impl.h, so it compiles against every pin: members that a pin lacks are not named.

#include "check.h"

#include "ggml-alloc.h"
#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "ggml.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace fake {

static char * const base = (char *) (uintptr_t) 0x10000; // never mapped

struct settings {
    size_t max_size   = SIZE_MAX;
    bool   refuse_cpy = false; // cpy_tensor returns false: the caller has to stage through the host
    bool   like_rpc   = false; // get_tensor and set_tensor read tensor->buffer too, as RPC's do (others do not)
};

struct counters {
    int set = 0, get = 0, cpy = 0, async = 0, refused = 0, buffers = 0, views_initialized = 0;
};

inline settings & config() { static settings s; return s; }
inline counters & calls()  { static counters c; return c; }

struct memory {
    char * bytes;
    size_t size;
};

inline char * at(ggml_backend_buffer_t buffer, const ggml_tensor * tensor, size_t offset, size_t size) {
    memory * mem = (memory *) buffer->context;
    const size_t start = (size_t) ((char *) tensor->data - base) + offset;
    CHECK((char *) tensor->data >= base && start <= mem->size && size <= mem->size - start,
        "tensor %s: [%zu, +%zu) of a buffer of %zu", tensor->name, start, size, mem->size);
    if (tensor->view_src != nullptr) {
        // Vulkan's arithmetic: from the owner's address and the view's offset, not from the view's own address
        const size_t by_owner = (size_t) ((char *) tensor->view_src->data - base) + tensor->view_offs + offset;
        CHECK(by_owner == start, "view %s: its address and its offset disagree", tensor->name);
    }
    return mem->bytes + start;
}

inline void free_buffer(ggml_backend_buffer_t buffer) {
    memory * mem = (memory *) buffer->context;
    free(mem->bytes);
    delete mem;
}

inline void * get_base(ggml_backend_buffer_t) { return base; }

inline ggml_status init_tensor(ggml_backend_buffer_t, ggml_tensor * tensor) {
    calls().views_initialized += tensor->view_src != nullptr;
    return GGML_STATUS_SUCCESS;
}

inline void set_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    CHECK(tensor->buffer != nullptr || !config().like_rpc, "set_tensor: tensor->buffer");
    calls().set++;
    memcpy(at(buffer, tensor, offset, size), data, size);
}

inline void get_tensor(ggml_backend_buffer_t buffer, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
    CHECK(tensor->buffer != nullptr || !config().like_rpc, "get_tensor: tensor->buffer");
    calls().get++;
    memcpy(data, at(buffer, tensor, offset, size), size);
}

inline bool is_fake(ggml_backend_buffer_t buffer) { return buffer->iface.free_buffer == free_buffer; }

inline bool cpy_tensor(ggml_backend_buffer_t buffer, const ggml_tensor * src, ggml_tensor * dst) {
    CHECK(src->buffer != nullptr, "cpy_tensor: src->buffer");
    CHECK(dst->buffer != nullptr, "cpy_tensor: dst->buffer");
    CHECK(dst->buffer == buffer, "cpy_tensor: another buffer than dst->buffer");
    if (!is_fake(src->buffer) || config().refuse_cpy) {
        calls().refused++;
        return false;
    }
    const size_t size = ggml_nbytes(src);
    CHECK(size > 0, "cpy_tensor was asked for an empty copy");
    char * to = at(dst->buffer, dst, 0, size);
    const char * from = at(src->buffer, src, 0, size);
    CHECK(to + size <= from || from + size <= to, "cpy_tensor was asked for overlapping ranges");
    memcpy(to, from, size);
    calls().cpy++;
    return true;
}

inline void clear(ggml_backend_buffer_t buffer, uint8_t value) {
    memory * mem = (memory *) buffer->context;
    memset(mem->bytes, value, mem->size);
}

inline const char * buft_name(ggml_backend_buffer_type_t) { return "fake device"; }

inline ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t buft, size_t size) {
    ggml_backend_buffer_i iface;
    memset(&iface, 0, sizeof(iface)); // no set_tensor_2d etc. where the pin has them
    iface.free_buffer = free_buffer;
    iface.get_base    = get_base;
    iface.init_tensor = init_tensor;
    iface.set_tensor  = set_tensor;
    iface.get_tensor  = get_tensor;
    iface.cpy_tensor  = cpy_tensor;
    iface.clear       = clear;
    calls().buffers++;
    return ggml_backend_buffer_init(buft, iface, new memory{(char *) malloc(size), size}, size);
}

inline size_t get_alignment(ggml_backend_buffer_type_t) { return 32; }
inline size_t get_max_size(ggml_backend_buffer_type_t) { return config().max_size; }
inline bool   is_host(ggml_backend_buffer_type_t) { return false; }

inline ggml_backend_buffer_type_t buffer_type() {
    static ggml_backend_buffer_type buft = [] {
        ggml_backend_buffer_type b;
        memset(&b, 0, sizeof(b));
        b.iface.get_name      = buft_name;
        b.iface.alloc_buffer  = alloc_buffer;
        b.iface.get_alignment = get_alignment;
        b.iface.get_max_size  = get_max_size;
        b.iface.is_host       = is_host;
        return b;
    }();
    return &buft;
}

inline const char * backend_name(ggml_backend_t) { return "fake backend"; }

inline bool cpy_tensor_async(ggml_backend_t, ggml_backend_t, const ggml_tensor * src, ggml_tensor * dst) {
    CHECK(src->buffer != nullptr, "cpy_tensor_async: src->buffer");
    CHECK(dst->buffer != nullptr, "cpy_tensor_async: dst->buffer");
    if (!is_fake(src->buffer) || !is_fake(dst->buffer) || config().refuse_cpy) {
        return false;
    }
    calls().async++;
    return cpy_tensor(dst->buffer, src, dst);
}

// enough of a back end for ggml_backend_tensor_copy_async
inline ggml_backend_t backend() {
    static ggml_backend b = [] {
        ggml_backend x;
        memset(&x, 0, sizeof(x));
        x.iface.get_name         = backend_name;
        x.iface.cpy_tensor_async = cpy_tensor_async;
        return x;
    }();
    return &b;
}

} // namespace fake

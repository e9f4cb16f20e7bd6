#include "ggml-paged-buffer.h"

#include "ggml-backend-impl.h"
#include "ggml-impl.h"

#include <algorithm>
#include <cstring>

#if defined(__unix__) || defined(__APPLE__)

#include <sys/mman.h>
#include <unistd.h>

static size_t page_size() {
    static const size_t size = (size_t) sysconf(_SC_PAGESIZE);
    return size;
}

static size_t whole_pages(size_t size) {
    return (size + page_size() - 1) / page_size() * page_size();
}

static void * map_pages(size_t size) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
    flags |= MAP_NORESERVE; // a large context that stays nearly empty is not refused
#endif
    void * base = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (base == MAP_FAILED) {
        return nullptr;
    }
#ifdef MADV_NOHUGEPAGE
    madvise(base, size, MADV_NOHUGEPAGE); // else the first token of every tensor may cost 2 MiB
#endif
    return base;
}

static bool discard_pages(char * begin, size_t size) {
#ifdef __linux__
    return madvise(begin, size, MADV_DONTNEED) == 0;
#else
    // elsewhere the advice does not promise zeros: fresh pages in the same place do
    return mmap(begin, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == begin;
#endif
}

static const char * paged_name(ggml_backend_buffer_type_t) {
    return "CPU_Paged";
}

static size_t paged_alignment(ggml_backend_buffer_type_t) {
    return page_size();
}

static bool paged_is_host(ggml_backend_buffer_type_t) {
    return true;
}

static void paged_free(ggml_backend_buffer_t buffer) {
    munmap(ggml_backend_buffer_get_base(buffer), whole_pages(ggml_backend_buffer_get_size(buffer)));
}

static void paged_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    char *       base = (char *) ggml_backend_buffer_get_base(buffer);
    const size_t size = ggml_backend_buffer_get_size(buffer);
    if (value != 0 || !discard_pages(base, whole_pages(size))) {
        memset(base, value, size);
    }
}

static ggml_backend_buffer_t paged_alloc(ggml_backend_buffer_type_t buft, size_t size) {
    if (size == 0 || size > SIZE_MAX - page_size()) {
        return nullptr;
    }
    void * base = map_pages(whole_pages(size));
    if (!base) {
        GGML_LOG_ERROR("%s: the system gives no %zu bytes of address space\n", __func__, size);
        return nullptr;
    }
    // as a CPU buffer in every other respect
    ggml_backend_buffer_t buffer = ggml_backend_cpu_buffer_from_ptr(base, size);
    buffer->buft              = buft;
    buffer->iface.free_buffer = paged_free;
    buffer->iface.clear       = paged_clear;
    return buffer;
}

ggml_backend_buffer_type_t ggml_backend_paged_buffer_type(void) {
    static ggml_backend_buffer_type buft = [] {
        ggml_backend_buffer_type like_cpu = *ggml_backend_cpu_buffer_type();
        like_cpu.iface.get_name      = paged_name;
        like_cpu.iface.alloc_buffer  = paged_alloc;
        like_cpu.iface.get_alignment = paged_alignment;
        like_cpu.iface.is_host       = paged_is_host;
        return like_cpu;
    }();
    return &buft;
}

size_t ggml_backend_paged_page_size(void) {
    return page_size();
}

size_t ggml_backend_paged_discard(ggml_backend_buffer_t buffer, size_t offset, size_t size) {
    if (!ggml_backend_buffer_is_paged(buffer)) {
        return 0;
    }
    const size_t capacity = whole_pages(ggml_backend_buffer_get_size(buffer));
    const size_t begin    = whole_pages(std::min(offset, capacity));
    // the rest of the last page belongs to nobody
    const size_t wanted   = size > capacity - std::min(offset, capacity) ? capacity : offset + size;
    const size_t end      = wanted >= ggml_backend_buffer_get_size(buffer) ? capacity : wanted / page_size() * page_size();
    if (begin >= end) {
        return 0;
    }
    char * base = (char *) ggml_backend_buffer_get_base(buffer);
    return discard_pages(base + begin, end - begin) ? end - begin : 0;
}

bool ggml_backend_buffer_is_paged(ggml_backend_buffer_t buffer) {
    return buffer && ggml_backend_buffer_get_type(buffer) == ggml_backend_paged_buffer_type();
}

#else // no pages that can be given back one by one

ggml_backend_buffer_type_t ggml_backend_paged_buffer_type(void) {
    return nullptr;
}

size_t ggml_backend_paged_page_size(void) {
    return 0;
}

size_t ggml_backend_paged_discard(ggml_backend_buffer_t, size_t, size_t) {
    return 0;
}

bool ggml_backend_buffer_is_paged(ggml_backend_buffer_t) {
    return false;
}

#endif

// Feature kv-blocks: the paged buffer, and its memory as the system sees it.
//
//   buffer | compute CPU-PLUGIN | walk SEED STEPS
//
// Prints "ok" and a number of what was done; exit code 3 and the place of the failure otherwise.

#include "resident.h"

#include "ggml-cpp.h"
#include "ggml-paged-buffer.h"

#include <algorithm>
#include <tuple>

using Bools = std::vector<bool>;
using Bytes = std::vector<uint8_t>;

static ggml_backend_buffer_ptr paged(size_t size) {
    return ggml_backend_buffer_ptr(ggml_backend_buft_alloc_buffer(ggml_backend_paged_buffer_type(), size));
}

static char * base_of(const ggml_backend_buffer_ptr & buffer) { return (char *) ggml_backend_buffer_get_base(buffer.get()); }

static Bools resident(const ggml_backend_buffer_ptr & buffer) {
    return resident(base_of(buffer), ggml_backend_buffer_get_size(buffer.get()));
}

static size_t discard(const ggml_backend_buffer_ptr & buffer, size_t offset, size_t size) {
    return ggml_backend_paged_discard(buffer.get(), offset, size);
}

//
// buffer
//

// What it takes when it is made, written, read, discarded, cleared and freed.
static void check_memory(size_t size) {
    const size_t page = page_size();
    const size_t n    = pages_of(size);
    auto buffer = paged(size);
    CHECK(buffer && ggml_backend_buffer_get_size(buffer.get()) == size, "%zu bytes", size);
    char * base = base_of(buffer);
    CHECK((uintptr_t) base % page == 0, "it begins at a page");
    CHECK(resident(buffer) == Bools(n, false), "%zu bytes: nothing is taken at first", size);
    for (const size_t at : {size_t(0), size/2, size - 1}) {
        base[at] = 1;
        CHECK(resident(buffer)[at/page], "%zu bytes: what is written is there", size);
    }
    Bools written(n);
    written[0] = written[size/2/page] = written[n - 1] = true;
    CHECK(resident(buffer) == written, "%zu bytes: and nothing else", size);
    CHECK(discard(buffer, 0, size) == n*page, "%zu bytes: all pages, the last one too", size);
    CHECK(resident(buffer) == Bools(n, false), "%zu bytes: given back", size);
    for (size_t at = 0; at < size; at++) {
        CHECK(base[at] == 0, "%zu bytes: zeros after discard", size);
    }
    ggml_backend_buffer_clear(buffer.get(), 7);
    CHECK(resident(buffer) == Bools(n, true), "%zu bytes: clear(7) takes it all", size);
    CHECK((size_t) std::count(base, base + size, 7) == size, "%zu bytes: sevens", size);
    ggml_backend_buffer_clear(buffer.get(), 0);
    CHECK(resident(buffer) == Bools(n, false), "%zu bytes: clear(0) gives all back", size);
    CHECK((size_t) std::count(base, base + size, 0) == size, "%zu bytes: zeros after clear(0)", size);
    buffer.reset();
    CHECK(!is_mapped(base), "%zu bytes: freed", size);
}

static void check_discard_edges() {
    const size_t page = page_size();
    const size_t size = 5*page + 100;
    auto buffer = paged(size);
    char * base = base_of(buffer);
    const auto fill = [&] { ggml_backend_buffer_clear(buffer.get(), 9); };
    // offset, size, pages that go
    const std::vector<std::tuple<size_t, size_t, Bools>> cases = {
        {0, 0, {0, 0, 0, 0, 0, 0}},
        {0, page - 1, {0, 0, 0, 0, 0, 0}},
        {0, page, {1, 0, 0, 0, 0, 0}},
        {1, page, {0, 0, 0, 0, 0, 0}},
        {1, 2*page - 1, {0, 1, 0, 0, 0, 0}},
        {page - 1, page + 1, {0, 1, 0, 0, 0, 0}},
        {page, 3*page + 1, {0, 1, 1, 1, 0, 0}},
        {5*page, 99, {0, 0, 0, 0, 0, 0}}, // one byte of the last page is kept
        {5*page, 100, {0, 0, 0, 0, 0, 1}},
        {5*page + 1, 99, {0, 0, 0, 0, 0, 0}},
        {4*page + 1, SIZE_MAX, {0, 0, 0, 0, 0, 1}},
        {0, SIZE_MAX, {1, 1, 1, 1, 1, 1}},
        {size, 1, {0, 0, 0, 0, 0, 0}},
        {size, SIZE_MAX, {0, 0, 0, 0, 0, 0}},
        {100*page, page, {0, 0, 0, 0, 0, 0}},
        {SIZE_MAX, SIZE_MAX, {0, 0, 0, 0, 0, 0}},
        {SIZE_MAX - page, 2*page, {0, 0, 0, 0, 0, 0}},
    };
    for (const auto & [offset, n, gone] : cases) {
        fill();
        const size_t bytes = (size_t) std::count(gone.begin(), gone.end(), true)*page;
        CHECK(discard(buffer, offset, n) == bytes, "[%zu, +%zu)", offset, n);
        Bools left = gone;
        left.flip();
        CHECK(resident(buffer) == left, "[%zu, +%zu)", offset, n);
        for (size_t at = 0; at < size; at++) {
            CHECK(base[at] == (gone[at/page] ? 0 : 9), "[%zu, +%zu): byte %zu", offset, n, at);
        }
    }
}

static void check_others() {
    const size_t page = page_size();
    CHECK(!ggml_backend_buffer_is_paged(nullptr) && ggml_backend_paged_discard(nullptr, 0, page) == 0, "no buffer");
    Bytes memory(9*page);
    void * aligned = (void *) (((uintptr_t) memory.data() + page - 1)/page*page);
    ggml_backend_buffer_ptr plain(ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), 8*page));
    ggml_backend_buffer_ptr wrapped(ggml_backend_cpu_buffer_from_ptr(aligned, 8*page));
    for (const auto & other : {plain.get(), wrapped.get()}) {
        ggml_backend_buffer_clear(other, 5);
        CHECK(!ggml_backend_buffer_is_paged(other) && ggml_backend_paged_discard(other, 0, 8*page) == 0, "another buffer");
        const char * bytes = (const char *) ggml_backend_buffer_get_base(other);
        CHECK((size_t) std::count(bytes, bytes + 8*page, 5) == 8*page, "another buffer keeps its bytes");
    }
    auto empty = paged(0);
    CHECK(empty && ggml_backend_buffer_get_size(empty.get()) == 0, "an empty buffer, as other types give");
    CHECK(discard(empty, 0, 0) == 0 && discard(empty, 0, SIZE_MAX) == 0 && discard(empty, page, page) == 0, "an empty buffer");
    ggml_backend_buffer_clear(empty.get(), 1);
}

static void check_huge() {
    const size_t page = page_size();
    for (const size_t size : {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - page + 1, SIZE_MAX - page, SIZE_MAX - 2*page, SIZE_MAX/2, size_t(1) << 62, size_t(1) << 48}) {
        CHECK(!paged(size), "%zu bytes should be refused", size);
    }
    FILE * file = fopen("/proc/sys/vm/overcommit_memory", "r");
    const int strict = file ? fgetc(file) : '0';
    if (file) {
        fclose(file);
    }
    if (strict != '2') {
        const size_t size = size_t(1) << 40; // more than there is
        auto buffer = paged(size);
        CHECK(buffer, "a terabyte that is not written");
        char * base = base_of(buffer);
        base[0] = base[size - 1] = 1;
        CHECK(discard(buffer, 0, size) == size && base[0] == 0 && base[size - 1] == 0, "a terabyte");
    }
}

// What is never written costs nothing when it is read, and no page is larger than the system's smallest.
static void check_reading() {
    const size_t size = size_t(64) << 20;
    auto buffer = paged(size);
    const volatile char * base = base_of(buffer);
    CHECK(smaps(base_of(buffer), "VmFlags:").find(" nh") != std::string::npos, "huge pages are not declined");
    const size_t before = resident_of_process();
    for (size_t at = 0; at < size; at += 512) {
        CHECK(base[at] == 0, "zeros at first");
    }
    const size_t after = resident_of_process();
    CHECK(after < before + (size_t(4) << 20), "reading 64 MiB took %zu bytes", after - before);
    ggml_backend_buffer_clear(buffer.get(), 1);
    CHECK(resident_of_process() >= before + size, "and writing them takes them");
    ggml_backend_buffer_clear(buffer.get(), 0);
    CHECK(resident_of_process() < before + (size_t(4) << 20), "and clear(0) returns them");
}

static void check_tensors() {
    const size_t page = page_size();
    ggml_context_ptr context(ggml_init({16*ggml_tensor_overhead(), nullptr, true}));
    std::vector<ggml_tensor *> tensors;
    for (const int64_t n : {100, 3000, 1, 5000, 4096}) {
        tensors.push_back(ggml_new_tensor_1d(context.get(), GGML_TYPE_I8, n));
    }
    ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors_from_buft(context.get(), ggml_backend_paged_buffer_type()));
    CHECK(buffer && ggml_backend_buffer_is_paged(buffer.get()) && ggml_backend_buffer_is_host(buffer.get()), "is_host");
    CHECK(resident(buffer) == Bools(pages_of(ggml_backend_buffer_get_size(buffer.get()))), "tensors take nothing");
    ggml_backend_buffer_ptr other;
    ggml_context_ptr plain(ggml_init({16*ggml_tensor_overhead(), nullptr, true}));
    std::vector<ggml_tensor *> twins;
    for (ggml_tensor * tensor : tensors) {
        CHECK((uintptr_t) tensor->data % page == 0, "each tensor begins at a page");
        twins.push_back(ggml_dup_tensor(plain.get(), tensor));
    }
    other.reset(ggml_backend_alloc_ctx_tensors_from_buft(plain.get(), ggml_backend_cpu_buffer_type()));
    for (size_t i = 0; i < tensors.size(); i++) {
        Bytes bytes(ggml_nbytes(tensors[i])), back(bytes.size());
        for (size_t j = 0; j < bytes.size(); j++) {
            bytes[j] = (uint8_t) (j*31 + i);
        }
        ggml_backend_tensor_set(tensors[i], bytes.data(), 0, bytes.size());
        ggml_backend_tensor_get(tensors[i], back.data(), 0, back.size());
        CHECK(back == bytes, "set and get");
        ggml_backend_tensor_copy(tensors[i], twins[i]);
        ggml_backend_tensor_memset(tensors[i], 3, 0, bytes.size());
        ggml_backend_tensor_get(tensors[i], back.data(), 0, back.size());
        CHECK(back == Bytes(back.size(), 3), "memset");
        ggml_backend_tensor_get(twins[i], back.data(), 0, back.size());
        CHECK(back == bytes, "copied out of it");
        ggml_backend_tensor_copy(twins[i], tensors[i]);
        ggml_backend_tensor_get(tensors[i], back.data(), 0, back.size());
        CHECK(back == bytes, "copied into it");
        if (bytes.size() > 64) {
            ggml_tensor * view = ggml_view_1d(context.get(), tensors[i], 20, 11);
            CHECK(ggml_backend_view_init(view) == GGML_STATUS_SUCCESS, "view");
            ggml_backend_tensor_get(view, back.data(), 3, 17);
            CHECK(std::equal(back.begin(), back.begin() + 17, bytes.begin() + 14), "a view");
        }
    }
}

static size_t run_buffer() {
    ggml_backend_buffer_type_t buft = ggml_backend_paged_buffer_type();
    CHECK(buft && buft == ggml_backend_paged_buffer_type() && buft != ggml_backend_cpu_buffer_type(), "one type, its own");
    CHECK(ggml_backend_buft_is_host(buft) && !std::string(ggml_backend_buft_name(buft)).empty(), "host memory with a name");
    CHECK(std::string(ggml_backend_buft_name(buft)) != ggml_backend_buft_name(ggml_backend_cpu_buffer_type()), "a name of its own");
    CHECK(ggml_backend_paged_page_size() == page_size() && ggml_backend_buft_get_alignment(buft) == page_size(), "pages");
    const size_t page = page_size();
    for (const size_t size : {size_t(1), size_t(31), page - 1, page, page + 1, 2*page, 7*page + 4095, 100*page, 64*page + 1}) {
        check_memory(size);
    }
    check_discard_edges();
    check_others();
    check_huge();
    check_reading();
    check_tensors();
    return 9;
}

// The CPU computes with tensors there, and writes only what it should.
static size_t run_compute(const char * plugin) {
    CHECK(ggml_backend_load(plugin), "%s", plugin);
    ggml_backend_ptr cpu(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    CHECK(cpu && ggml_backend_supports_buft(cpu.get(), ggml_backend_paged_buffer_type()), "the CPU takes such buffers");
    const int64_t n = 1024, rows = 64; // a row is a page
    ggml_context_ptr fixed(ggml_init({8*ggml_tensor_overhead(), nullptr, true}));
    ggml_tensor * cache = ggml_new_tensor_2d(fixed.get(), GGML_TYPE_F32, n, rows);
    ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors_from_buft(fixed.get(), ggml_backend_paged_buffer_type()));
    ggml_context_ptr work(ggml_init({32*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
    ggml_tensor * row  = ggml_new_tensor_2d(work.get(), GGML_TYPE_F32, n, 1);
    ggml_tensor * into = ggml_cpy(work.get(), row, ggml_view_2d(work.get(), cache, n, 1, cache->nb[1], 7*cache->nb[1]));
    ggml_tensor * sum  = ggml_sum(work.get(), cache);
    ggml_cgraph * graph = ggml_new_graph(work.get());
    ggml_build_forward_expand(graph, into);
    ggml_build_forward_expand(graph, sum);
    ggml_backend_buffer_ptr scratch(ggml_backend_alloc_ctx_tensors(work.get(), cpu.get()));
    const std::vector<float> ones((size_t) n, 1.0f);
    ggml_backend_tensor_set(row, ones.data(), 0, 4*ones.size());
    CHECK(ggml_backend_graph_compute(cpu.get(), graph) == GGML_STATUS_SUCCESS, "compute");
    float result = 0;
    ggml_backend_tensor_get(sum, &result, 0, 4);
    CHECK(result == (float) n, "one row of ones and zeros elsewhere: %f", result);
    CHECK(discard(buffer, 0, ggml_nbytes(cache)) > 0 && ggml_backend_graph_compute(cpu.get(), graph) == GGML_STATUS_SUCCESS, "again");
    ggml_backend_tensor_get(sum, &result, 0, 4);
    CHECK(result == (float) n, "again: %f", result);
    return 2;
}

// Writes and discards anywhere, against one flag a page.
static size_t run_walk(uint64_t seed, size_t steps) {
    Random random(seed);
    const size_t page = page_size();
    const size_t size = random.pick(1, 40*page);
    auto buffer = paged(size);
    char * base = base_of(buffer);
    Bools expected(pages_of(size));
    Bytes bytes(size);
    for (size_t step = 0; step < steps; step++) {
        const size_t at = random.pick(0, size - 1);
        if (random.once_in(40)) {
            const uint8_t value = (uint8_t) random.pick(0, 1);
            ggml_backend_buffer_clear(buffer.get(), value);
            expected.assign(expected.size(), value != 0);
            bytes.assign(size, value);
        } else if (random.once_in(2)) {
            const size_t n = random.once_in(4) ? random.pick(1, size - at) : random.pick(1, std::min(size - at, size_t(300)));
            for (size_t i = at; i < at + n; i++) {
                base[i] = (char) (bytes[i] = (uint8_t) (random.engine() | 1));
                expected[i/page] = true;
            }
        } else {
            const size_t begin = random.once_in(3) ? at/page*page : at;
            const size_t n     = random.once_in(10) ? SIZE_MAX : random.once_in(3) ? size - begin : random.pick(0, 9*page);
            const size_t end   = n > size - begin ? size : begin + n;
            size_t gone = 0;
            for (size_t i = 0; i < expected.size(); i++) {
                if (begin <= i*page && std::min((i + 1)*page, size) <= end) {
                    gone += page;
                    expected[i] = false;
                    std::fill(bytes.begin() + (long) (i*page), bytes.begin() + (long) std::min((i + 1)*page, size), 0);
                }
            }
            CHECK(discard(buffer, begin, n) == gone, "seed %llu, step %zu: [%zu, +%zu) of %zu", (unsigned long long) seed, step, begin, n, size);
        }
        CHECK(resident(buffer) == expected, "seed %llu, step %zu", (unsigned long long) seed, step);
        for (size_t i = 0; i < expected.size(); i++) { // without reading what is not there
            const size_t n = std::min(page, size - i*page);
            CHECK(!expected[i] || memcmp(base + i*page, &bytes[i*page], n) == 0, "seed %llu, step %zu: page %zu", (unsigned long long) seed, step, i);
        }
    }
    CHECK(memcmp(base, bytes.data(), size) == 0, "seed %llu: what is not there reads as zeros", (unsigned long long) seed);
    return steps;
}

int main(int argc, char ** argv) {
    const std::string command = argc > 1 ? argv[1] : "";
    const auto number = [&](int i) { return strtoull(argv[i], nullptr, 10); };
    size_t done = 0;
    if (command == "buffer") {
        done = run_buffer();
    } else if (command == "compute" && argc == 3) {
        done = run_compute(argv[2]);
    } else if (command == "walk" && argc == 4) {
        done = run_walk(number(2), number(3));
    } else {
        fprintf(stderr, "usage: %s buffer | compute CPU-PLUGIN | walk SEED STEPS\n", argv[0]);
        return 2;
    }
    printf("ok %zu\n", done);
    return 0;
}

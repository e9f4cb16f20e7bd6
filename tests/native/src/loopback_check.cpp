// Drives the loopback device through ggml's public interface, from several threads; for the sanitizers, so it is linked
// with the plug-in's sources. Argument: the CPU's plug-in. Prints "ok".

#include "../loopback/loopback.h"

#include "ggml-alloc.h"
#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-impl.h"
#include "ggml.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#define CHECK(cond)                                                             \
    do {                                                                        \
        if (!(cond)) {                                                          \
            fprintf(stderr, "CHECK failed, %s:%d: %s\n", __FILE__, __LINE__, #cond); \
            _Exit(3);                                                           \
        }                                                                       \
    } while (0)

extern "C" ggml_backend_reg_t ggml_backend_init(void);

static ggml_backend_reg_t loopback = nullptr;

static ggml_backend_dev_t device(int index) { return ggml_backend_reg_dev_get(loopback, (size_t) index); }

static loopback_counts counts(int index) {
    loopback_counts found;
    loopback_stats(index, &found);
    return found;
}

// x and y are set, sum = x + y, twice = sum + sum
struct Sums {
    static const int n = 1000;

    ggml_backend_ptr        backend;
    ggml_context_ptr        context;
    ggml_tensor *           x;
    ggml_tensor *           y;
    ggml_tensor *           twice;
    ggml_cgraph *           graph;
    ggml_backend_buffer_ptr buffer;

    explicit Sums(int index) : backend(ggml_backend_dev_init(device(index), nullptr)) {
        CHECK(backend != nullptr);
        const auto set_n_threads = (ggml_backend_set_n_threads_t)
            ggml_backend_reg_get_proc_address(loopback, "ggml_backend_set_n_threads");
        set_n_threads(backend.get(), 1); // OpenMP is not instrumented
        context.reset(ggml_init({16 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
        x = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, n);
        y = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, n);
        ggml_tensor * sum = ggml_add(context.get(), x, y);
        twice = ggml_add(context.get(), sum, ggml_view_1d(context.get(), sum, n, 0));
        graph = ggml_new_graph(context.get());
        ggml_build_forward_expand(graph, twice);
        buffer.reset(ggml_backend_alloc_ctx_tensors(context.get(), backend.get()));
    }

    void set(float value) {
        const std::vector<float> data(n, value);
        ggml_backend_tensor_set_async(backend.get(), x, data.data(), 0, sizeof(float) * n);
        ggml_backend_tensor_set_async(backend.get(), y, data.data(), 0, sizeof(float) * n);
        ggml_backend_synchronize(backend.get());
    }

    void compute() { CHECK(ggml_backend_graph_compute_async(backend.get(), graph) == GGML_STATUS_SUCCESS); }

    void expect(float value) {
        std::vector<float> found(n);
        ggml_backend_tensor_get_async(backend.get(), twice, found.data(), 0, sizeof(float) * n);
        ggml_backend_synchronize(backend.get());
        for (float one : found) {
            CHECK(one == value);
        }
    }
};

static void sums(int index) {
    Sums s(index);
    CHECK(s.buffer != nullptr);
    for (int i = 1; i <= 20; i++) {
        s.set((float) i);
        s.compute();
        s.expect(4.0f * (float) i);
    }
    s.compute(); // may still be running, or waiting, when everything is freed
}

// the second device takes the first one's result, by stream order alone
static void chain() {
    Sums a(0), b(1);
    for (int i = 1; i <= 20; i++) {
        a.set((float) i);
        b.set(0.0f);
        a.compute();
        ggml_backend_tensor_copy_async(a.backend.get(), b.backend.get(), a.twice, b.x);
        b.compute();
        b.expect(8.0f * (float) i);
    }
}

static void events() {
    Sums a(0), b(1);
    ggml_backend_event_ptr event(ggml_backend_event_new(device(0)));
    CHECK(event != nullptr);
    a.set(1.0f);
    a.compute();
    ggml_backend_event_record(event.get(), a.backend.get());
    ggml_backend_event_wait(b.backend.get(), event.get());
    ggml_backend_event_synchronize(event.get());
    std::vector<float> found(Sums::n);
    ggml_backend_tensor_get(a.twice, found.data(), 0, sizeof(float) * Sums::n); // not through the stream
    CHECK(found.front() == 4.0f && found.back() == 4.0f);
    ggml_backend_synchronize(b.backend.get());
}

static void pieces() {
    Sums s(0);
    s.set(1.0f);
    std::vector<float> found(Sums::n);
    ggml_backend_tensor_memset(s.x, 0, sizeof(float), sizeof(float));
    ggml_backend_tensor_copy(s.x, s.y);
    ggml_backend_tensor_get(s.y, found.data(), 0, sizeof(float) * Sums::n);
    CHECK(found[0] == 1.0f && found[1] == 0.0f && found[2] == 1.0f);
    ggml_backend_buffer_clear(s.buffer.get(), 0);
    ggml_backend_tensor_get(s.y, found.data(), 0, sizeof(float) * Sums::n);
    CHECK(found[0] == 0.0f && found[999] == 0.0f);
}

// A split of a graph: what its first node gives is used in the next split too, so the CPU must not skip writing it when
// it computes both nodes as one (2026-10 does that with these two).
static void split() {
    Sums s(0);
    ggml_context_ptr context(ggml_init({16 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
    ggml_tensor * norm   = ggml_rms_norm(context.get(), s.x, 0.0f);
    ggml_tensor * scaled = ggml_mul(context.get(), norm, s.y);
    ggml_cgraph * graph  = ggml_new_graph(context.get());
    ggml_build_forward_expand(graph, ggml_add(context.get(), norm, scaled));
    ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors(context.get(), s.backend.get()));
    ggml_backend_buffer_clear(buffer.get(), 0);
    s.set(2.0f);
    ggml_cgraph first = ggml_graph_view(graph, 0, 2);
    CHECK(ggml_graph_n_nodes(graph) == 3 && ggml_graph_node(&first, 0) == norm && ggml_graph_node(&first, 1) == scaled);
    CHECK(ggml_backend_graph_compute(s.backend.get(), &first) == GGML_STATUS_SUCCESS);
    float found[2];
    ggml_backend_tensor_get(norm, &found[0], 0, sizeof(float));
    ggml_backend_tensor_get(scaled, &found[1], 0, sizeof(float));
    CHECK(found[0] == 1.0f && found[1] == 2.0f);
}

static void faults() {
    loopback_set(0, LOOPBACK_FAIL_ALLOC, 1);
    CHECK(Sums(0).buffer == nullptr);
    Sums s(0);
    s.set(2.0f);
    loopback_set(0, LOOPBACK_FAIL_COMPUTE, 2);
    s.compute();
    CHECK(ggml_backend_graph_compute_async(s.backend.get(), s.graph) == GGML_STATUS_FAILED);
    s.compute();
    s.expect(8.0f);
}

int main(int argc, char ** argv) {
    CHECK(argc == 2 && ggml_backend_load(argv[1]) != nullptr);
    setenv("LOOPBACK_DEVICES", "2", 1);
    loopback = ggml_backend_init();
    CHECK(ggml_backend_reg_dev_count(loopback) == 2);
    for (const int mode : {LOOPBACK_DEFERRED, LOOPBACK_WORKER, LOOPBACK_IMMEDIATE}) {
        loopback_set(0, LOOPBACK_MODE, (uint64_t) mode);
        loopback_set(1, LOOPBACK_MODE, (uint64_t) mode);
        chain();
        events();
        pieces();
        split();
        faults();
        std::thread threads[] = {std::thread(sums, 0), std::thread(sums, 0), std::thread(sums, 1), std::thread(chain)};
        for (std::thread & thread : threads) {
            thread.join();
        }
        for (const int index : {0, 1}) {
            CHECK(counts(index).live == 0 && counts(index).live_bytes == 0 && counts(index).frees == counts(index).allocs);
            CHECK(counts(index).events == counts(index).event_frees);
        }
    }
    puts("ok");
    return 0;
}

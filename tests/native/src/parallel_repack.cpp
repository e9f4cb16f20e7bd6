// Feature parallel-repack: the threads' bytes are those of one thread. Compiled with the tree's repack.cpp and
// parallel-repack.cpp, so that a sanitizer sees them; REPACK_TYPES lists upstream's functions, as TYPE(block, inter, columns).
//
//   same              every function, many shapes and numbers of threads: byte for byte, and no other byte
//   threads           slices, and that all threads work at once; how many there are
//   refused           what upstream's functions refuse; one slice that fails
//   no-threads N      only N threads can be started (not under ThreadSanitizer, which has a pthread_create of its own)
//   race              one that ThreadSanitizer must find
//   buffer PLUGIN     every type in the repacking buffer of a plug-in: name and hash of what lies there

#include "parallel-repack.h"
#include "repack.h"

#include "fake_device.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

using namespace ggml::cpu::repack;

namespace ggml::cpu::repack {
template <typename BLOC_TYPE, int64_t INTER_SIZE, int64_t NB_COLS> int repack(ggml_tensor * t, const void * data, size_t data_size);
}

struct kind {
    const char * name;
    ggml_type    type;
    int          inter;
    int          columns;
    repack_fn    fn;
};

static const std::vector<kind> kinds = {
#define TYPE(block, type, inter, columns) { #block, GGML_TYPE_##type, inter, columns, repack<block, inter, columns> },
    REPACK_TYPES
#undef TYPE
};

static void use_threads(int n) { setenv("GGML_REPACK_THREADS", std::to_string(n).c_str(), 1); }

static std::vector<char> random_bytes(size_t n, unsigned seed) {
    std::mt19937_64 engine(seed);
    std::vector<char> bytes(n + 8);
    for (size_t i = 0; i < n; i += 8) {
        const uint64_t word = engine();
        memcpy(&bytes[i], &word, 8);
    }
    bytes.resize(n);
    return bytes;
}

static ggml_tensor tensor_of(ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3 = 1) {
    ggml_tensor t = {};
    t.type  = type;
    t.ne[0] = ne0;
    t.ne[1] = ne1;
    t.ne[2] = ne2;
    t.ne[3] = ne3;
    t.nb[0] = ggml_type_size(type);
    t.nb[1] = ggml_row_size(type, ne0);
    t.nb[2] = t.nb[1] * ne1;
    t.nb[3] = t.nb[2] * ne2;
    return t;
}

// What lies in memory after repacking, with bytes around it that nobody may touch; `fill` was there before.
static std::vector<char> repacked(const kind & k, ggml_tensor t, const std::vector<char> & data, int n_threads, char fill) {
    const size_t guard = 4096;
    std::vector<char> memory(data.size() + 2 * guard, fill);
    t.data = memory.data() + guard;
    int result;
    if (n_threads == 0) {
        result = k.fn(&t, data.data(), data.size());
    } else {
        use_threads(n_threads);
        result = repack_in_parallel(k.fn, k.columns, &t, data.data(), data.size());
    }
    CHECK(result == 0, "%s: %d", k.name, result);
    for (size_t i = 0; i < guard; i++) {
        CHECK(memory[i] == fill && memory[memory.size() - 1 - i] == fill, "%s: a byte outside, %zu", k.name, i);
    }
    return { memory.begin() + guard, memory.end() - guard };
}

static void same() {
    size_t compared = 0;
    for (const kind & k : kinds) {
        const int64_t blck = ggml_blck_size(k.type);
        const int64_t ne0  = blck * std::max<int64_t>(1, 2048 / blck);
        const struct { int64_t ne1, ne2, ne3; } shapes[] = {
            { k.columns, 1, 1 },                     // one group: serial
            { 2048, 1, 1 },
            { 1024 + k.columns, 1, 1 },              // the last slice is a short one
            { k.columns * 131, 1, 1 },
            { 128 + k.columns, 12, 1 },              // experts, whose ends are no multiples of 16 rows
            { k.columns, 240, 1 },
            { k.columns * 5, 9, 7 },
        };
        for (const auto & s : shapes) {
            const ggml_tensor t    = tensor_of(k.type, ne0, s.ne1, s.ne2, s.ne3);
            const auto        data = random_bytes(ggml_nbytes(&t), (unsigned) (ne0 + s.ne1 + s.ne2));
            const auto        want = repacked(k, t, data, 0, 0x55);
            CHECK(s.ne1 == k.columns || want != data, "%s: nothing was moved", k.name);
            for (int n : { 1, 2, 3, 5, 16 }) {
                CHECK(repacked(k, t, data, n, (char) 0xaa) == want, "%s_%dx%d, %d × %d × %d, %d threads", k.name, k.columns,
                    k.inter, (int) s.ne1, (int) s.ne2, (int) s.ne3, n);
                compared++;
            }
        }
    }
    printf("{\"kinds\": %zu, \"compared\": %zu}\n", kinds.size(), compared);
}

// A repack_fn that writes down who called it for which rows, and lets nobody go on before `expected` threads are here.
static struct {
    std::mutex                           mutex;
    std::condition_variable              arrived;
    std::map<std::thread::id, int>       threads;
    std::map<const char *, int64_t>      slices; // first byte, rows
    size_t                               expected = 1;
    int                                  fail_at  = -1;
} seen;

static int note(ggml_tensor * t, const void * data, size_t data_size) {
    std::unique_lock<std::mutex> lock(seen.mutex);
    CHECK((size_t) t->ne[1] * t->nb[1] == data_size && ggml_nbytes(t) == data_size, "a slice that is not one");
    CHECK(t->ne[2] == 1 && t->ne[3] == 1, "a slice of %d dimensions", ggml_n_dims(t));
    CHECK((const char *) t->data - (const char *) data == 1 << 20, "from and to do not belong together");
    CHECK(seen.slices.emplace((const char *) data, t->ne[1]).second, "a slice was handed out twice");
    const bool fails = (int) seen.slices.size() == seen.fail_at;
    seen.threads[std::this_thread::get_id()]++;
    seen.arrived.notify_all();
    const bool all = seen.arrived.wait_for(lock, std::chrono::seconds(60), [] { return seen.threads.size() >= seen.expected; });
    CHECK(all, "%zu threads came, not %zu", seen.threads.size(), seen.expected);
    return fails ? 7 : 0;
}

// The addresses are made up: note() reads none of them.
static int noted(int64_t ne1, int64_t ne2, int64_t columns, int fail_at = -1) {
    seen.threads.clear();
    seen.slices.clear();
    seen.fail_at = fail_at;
    ggml_tensor t = tensor_of(GGML_TYPE_Q4_0, 4096, ne1, ne2);
    const char * from = (const char *) (uintptr_t) (1 << 20);
    t.data = (void *) (from + (1 << 20));
    const int result = repack_in_parallel(note, columns, &t, from, ggml_nbytes(&t));

    const char * next = from;
    for (const auto & [first, rows] : seen.slices) {
        CHECK(first == next, "a gap, or an overlap");
        next += rows * t.nb[1];
        const bool last = next == from + ggml_nbytes(&t);
        CHECK(rows % columns == 0 && (last || rows % 16 == 0 || columns > 16 || 16 % columns != 0), "a slice of %d rows", (int) rows);
    }
    CHECK(next == from + ggml_nbytes(&t), "rows were left out");
    return result;
}

static void threads() {
    for (int n : { 2, 3, 8 }) {
        use_threads(n);
        seen.expected = n;
        for (int64_t columns : { 4, 8, 16, 12, 32 }) {
            CHECK(noted(columns * 300, 1, columns) == 0, "not repacked");
            CHECK(noted(columns * 3, 100, columns) == 0, "not repacked");
        }
    }
    seen.expected = 1;
    use_threads(1);
    CHECK(noted(4096, 1, 8) == 0 && seen.threads.size() == 1 && seen.slices.size() == 1, "one thread, one call");

    CHECK(repack_threads(1) == 1 && repack_threads(0) == 1, "small tensors are not worth a thread");
    use_threads(64);
    CHECK(repack_threads(SIZE_MAX) == 64, "as GGML_REPACK_THREADS says");
    const int few = repack_threads(1 << 20);
    CHECK(few > 1 && few < 64, "%d threads for a MiB", few);
    for (const char * word : { "0", "-3", "many", "" }) {
        setenv("GGML_REPACK_THREADS", word, 1);
        cpu_set_t all, one;
        CHECK(sched_getaffinity(0, sizeof(all), &all) == 0, "no affinity");
        CHECK(repack_threads(SIZE_MAX) == CPU_COUNT(&all), "as many as CPUs that we may use");
        int first = 0;
        while (!CPU_ISSET(first, &all)) {
            first++;
        }
        CPU_ZERO(&one);
        CPU_SET(first, &one);
        CHECK(sched_setaffinity(0, sizeof(one), &one) == 0, "no affinity");
        CHECK(repack_threads(SIZE_MAX) == 1, "one CPU, one thread");
        CHECK(sched_setaffinity(0, sizeof(all), &all) == 0, "no affinity");
    }
    printf("{}\n");
}

static void refused() {
    use_threads(4);
    for (const kind & k : kinds) {
        const ggml_tensor t    = tensor_of(k.type, ggml_blck_size(k.type) * 64, 256 + k.columns / 2, 4); // 4 of them would fit
        const auto        data = random_bytes(ggml_nbytes(&t), 1);
        std::vector<char> memory(data.size(), 0x55);
        ggml_tensor       to = t;
        to.data = memory.data();
        CHECK(repack_in_parallel(k.fn, k.columns, &to, data.data(), data.size()) == -1, "%s was not refused", k.name);
        CHECK(memory == std::vector<char>(data.size(), 0x55), "%s was refused, and written", k.name);
    }
    seen.expected = 4;
    CHECK(noted(4096, 1, 8, 3) == 7, "the slice that failed is forgotten");
    CHECK(noted(4096, 1, 8) == 0, "a failure that was not there");
    printf("{}\n");
}

static std::atomic<int> startable{1 << 30};

#if !defined(__SANITIZE_THREAD__)
extern "C" int pthread_create(pthread_t * thread, const pthread_attr_t * attr, void * (*start)(void *), void * arg) {
    using create = int (*)(pthread_t *, const pthread_attr_t *, void * (*) (void *), void *);
    if (startable.fetch_sub(1) <= 0) {
        return EAGAIN;
    }
    return ((create) dlsym(RTLD_NEXT, "pthread_create"))(thread, attr, start, arg);
}
#endif

static void no_threads(int n) {
    use_threads(8);
    startable = n;
    seen.expected = n + 1;
    CHECK(noted(4096, 1, 8) == 0, "not repacked");
    CHECK(seen.threads.size() == (size_t) n + 1, "%zu threads", seen.threads.size());
    const kind &      k    = kinds.front();
    const ggml_tensor t    = tensor_of(k.type, ggml_blck_size(k.type) * 64, 4096, 1);
    const auto        data = random_bytes(ggml_nbytes(&t), 1);
    startable = n;
    CHECK(repacked(k, t, data, 8, 0x55) == repacked(k, t, data, 0, 0x55), "other bytes");
    printf("{}\n");
}

static int racing = 0;

static int race(ggml_tensor *, const void *, size_t) {
    racing++;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return 0;
}

static uint64_t hash(const char * bytes, size_t n) {
    uint64_t h = 1469598103934665603u; // FNV-1a
    for (size_t i = 0; i < n; i++) {
        h = (h ^ (unsigned char) bytes[i]) * 1099511628211u;
    }
    return h;
}

static void buffer(const char * plugin) {
    ggml_backend_reg_t reg = ggml_backend_load(plugin);
    CHECK(reg != nullptr, "%s does not load", plugin);
    const auto extra = (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts");
    CHECK(extra != nullptr, "no extra buffer types");
    const char * separator = "{";
    for (ggml_backend_buffer_type_t * buft = extra(ggml_backend_reg_dev_get(reg, 0)); buft != nullptr && *buft != nullptr; buft++) {
        if (strcmp(ggml_backend_buft_name(*buft), "CPU_REPACK") != 0) {
            continue;
        }
        for (int type = 0; type < GGML_TYPE_COUNT; type++) {
            if (ggml_type_size((ggml_type) type) == 0 || !ggml_is_quantized((ggml_type) type)) {
                continue;
            }
            for (int n_matrices : { 1, 5 }) {
                ggml_context * ctx = ggml_init({ 4096, nullptr, true });
                ggml_tensor  * t   = ggml_new_tensor_3d(ctx, (ggml_type) type, 2048, 1000, n_matrices);
                ggml_backend_buffer_t memory = ggml_backend_alloc_ctx_tensors_from_buft(ctx, *buft);
                CHECK(memory != nullptr, "no memory");
                if (t->extra != nullptr) {
                    const auto data = random_bytes(ggml_nbytes(t), type);
                    ggml_backend_tensor_set(t, data.data(), 0, data.size());
                    printf("%s\"%s, %d\": \"%016llx\"", separator, ggml_type_name(t->type), n_matrices,
                        (unsigned long long) hash((const char *) t->data, data.size()));
                    separator = ", ";
                }
                ggml_backend_buffer_free(memory);
                ggml_free(ctx);
            }
        }
    }
    printf("%s}\n", *separator == '{' ? "{" : "");
}

int main(int argc, char ** argv) {
    const std::string what = argc > 1 ? argv[1] : "";
    if (what == "same") {
        same();
    } else if (what == "threads") {
        threads();
    } else if (what == "refused") {
        refused();
    } else if (what == "no-threads" && argc > 2) {
        no_threads(atoi(argv[2]));
    } else if (what == "race") {
        use_threads(4);
        ggml_tensor t = tensor_of(GGML_TYPE_Q4_0, 4096, 4096, 1);
        repack_in_parallel(race, 8, &t, nullptr, ggml_nbytes(&t));
        printf("{\"calls\": %d}\n", racing);
    } else if (what == "buffer" && argc > 2) {
        buffer(argv[2]);
    } else {
        fprintf(stderr, "see the comment at the top\n");
        return 2;
    }
    return 0;
}

#include "parallel-repack.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace ggml::cpu::repack {

// A thread that has less to do takes longer to start than it saves: repacking goes at about 1 GB/s.
static constexpr size_t  bytes_per_thread  = 256 * 1024;
static constexpr int64_t slices_per_thread = 4;
static constexpr int64_t rows_at_least     = 16;

// A container or taskset often allows fewer CPUs than there are, and hardware_concurrency() need not know of that.
static int cpus_of_this_thread() {
#if defined(__linux__)
    // the kernel's mask can be longer than cpu_set_t, which then is refused
    for (int n_cpus = 1024; n_cpus <= 1024 * 1024; n_cpus *= 4) {
        cpu_set_t * set = CPU_ALLOC(n_cpus);
        if (set == nullptr) {
            break;
        }
        const size_t size  = CPU_ALLOC_SIZE(n_cpus);
        const int    count = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (count > 0) {
            return count;
        }
    }
#endif
    return std::max(1, (int) std::thread::hardware_concurrency());
}

int repack_threads(size_t data_size) {
    const char * wanted = std::getenv("GGML_REPACK_THREADS");
    const int    limit  = wanted != nullptr ? std::atoi(wanted) : 0;
    const int    n      = limit > 0 ? limit : cpus_of_this_thread();
    return (int) std::clamp<size_t>(data_size / bytes_per_thread, 1, n);
}

namespace {

// What the threads share: slices are handed out until there are none, so it does not matter how many take part.
class sliced_repack {
  public:
    sliced_repack(repack_fn fn, const ggml_tensor & t, const void * data, size_t data_size, int64_t n_rows, int64_t n_slice) :
        fn(fn), whole(t), from((const char *) data), row_size(data_size / n_rows), n_rows(n_rows), n_slice(n_slice) {}

    void work() {
        for (int64_t first = take(); first < n_rows; first = take()) {
            const int64_t n = std::min(n_slice, n_rows - first);

            ggml_tensor slice = whole; // its rows as one matrix, wherever a matrix of the tensor ends
            slice.ne[1] = n;
            slice.ne[2] = 1;
            slice.ne[3] = 1;
            slice.nb[2] = n * slice.nb[1];
            slice.nb[3] = slice.nb[2];
            slice.data  = (char *) whole.data + first * row_size;

            const int failed = fn(&slice, from + first * row_size, n * row_size);
            if (failed != 0) {
                error.store(failed, std::memory_order_relaxed);
            }
        }
    }

    int result() const { return error.load(std::memory_order_relaxed); }

  private:
    int64_t take() { return next.fetch_add(n_slice, std::memory_order_relaxed); }

    const repack_fn      fn;
    const ggml_tensor &  whole;
    const char * const   from;
    const size_t         row_size; // bytes, the same before and after
    const int64_t        n_rows;
    const int64_t        n_slice;
    std::atomic<int64_t> next{0};
    std::atomic<int>     error{0};
};

} // namespace

int repack_in_parallel(repack_fn fn, int64_t n_interleaved, ggml_tensor * t, const void * data, size_t data_size) {
    const int64_t n_rows    = ggml_nrows(t);
    const int     n_threads = repack_threads(data_size);

    // a shape that fn refuses, or asserts about, is for fn to say
    if (n_threads == 1 || t->ne[1] % n_interleaved != 0 || data_size != ggml_nbytes(t)) {
        return fn(t, data, data_size);
    }

    const int64_t n_unit  = std::max(n_interleaved, rows_at_least / n_interleaved * n_interleaved);
    const int64_t n_units = (n_rows + n_unit - 1) / n_unit;
    const int64_t n_share = std::max<int64_t>(1, n_units / (n_threads * slices_per_thread));

    sliced_repack job(fn, *t, data, data_size, n_rows, n_share * n_unit);

    std::vector<std::thread> others;
    try {
        others.reserve(n_threads - 1);
        while ((int) others.size() < n_threads - 1) {
            others.emplace_back(&sliced_repack::work, &job);
        }
    } catch (const std::exception &) {
        // no memory, or no more threads allowed: this one does what the others leave
    }
    job.work();
    for (std::thread & other : others) {
        other.join();
    }
    return job.result();
}

} // namespace ggml::cpu::repack

// Feature device-state: plans of copies against a plain reference, copies every way on the CPU and on the loopback device, and
// blobs that are not as they were written. Linked with the feature's own sources and the loopback plug-in's.
//
//   plan SEED ROUNDS | shapes | blob | copy CPU-PLUGIN SEED ROUNDS | large CPU-PLUGIN | counts CPU-PLUGIN
//
// Prints "ok" and a number of what was done; exit code 3 and the place of the failure otherwise.

#include "../loopback/loopback.h"
#include "state_blobs.h"
#include "state_ranges.h"

#include "ggml-backend-impl.h"
#include "ggml-cpp.h"
#include "llama-impl.h"

#include <cstdarg>
#include <cstring>
#include <iterator>
#include <string>

extern "C" ggml_backend_reg_t ggml_backend_init(void);

// libllama hides its own
void llama_log_internal(ggml_log_level, const char * format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
}

//
// plans
//

static size_t check_plan(Random & random, const Ranges & ranges) {
    const std::vector<Byte> expected = packed_bytes(ranges);
    const Blocks plan = llama_state_plan(ranges);
    check_blocks(plan, expected, SIZE_MAX);
    check_joined(plan);
    check_blocks(llama_state_plan(in_other_portions(random, ranges)), expected, SIZE_MAX);
    for (const size_t limit : {size_t(1), size_t(2), size_t(3), size_t(7), size_t(64), random.pick(1, 200), expected.size() + 1, SIZE_MAX}) {
        check_blocks(llama_state_cut(plan, limit), expected, limit);
    }
    return plan.size();
}

static size_t run_plan(uint64_t seed, size_t rounds) {
    Random random(seed);
    std::vector<ggml_tensor> tensors(3);
    std::vector<char> memory(8192), buffers(2); // addresses, nothing is read there
    for (size_t i = 0; i < rounds; i++) {
        std::vector<ggml_tensor *> some;
        const size_t bytes = random.pick(40, 700);
        for (size_t j = 0; j < 3; j++) { // often side by side, seldom in two buffers
            tensors[j].data   = &memory[j * bytes + (random.once_in(4) ? 64 : 0)];
            tensors[j].buffer = (ggml_backend_buffer *) &buffers[random.once_in(8) ? 1 : 0];
        }
        for (size_t j = random.pick(1, 3); j > 0; j--) {
            some.push_back(&tensors[j - 1]);
        }
        check_plan(random, random_ranges(random, some, bytes, false));
        if (i % 4 == 0) { // all of each, from left to right: layers of a recurrent state
            Ranges whole;
            for (auto & tensor : tensors) {
                whole.push_back({&tensor, 0, bytes});
            }
            check_plan(random, whole);
        }
    }
    check_plan(random, {});
    check_plan(random, {{&tensors[0], 5, 0}, {&tensors[0], 9, 0}});
    check_plan(random, {{&tensors[0], 0, 1}});
    check_plan(random, {{&tensors[0], 0, 4}, {&tensors[1], 4, 4}, {&tensors[0], 4, 4}}); // adjacent but for the tensor
    return rounds;
}

// Few blocks for what memory modules really name: else each would be a copy of its own.
static size_t run_shapes() {
    Random random(1);
    ggml_tensor k, v;
    const size_t n_cells = 256, rows = 192, element = 2;
    const auto blocks = [&](ggml_tensor * tensor, const std::vector<std::pair<size_t, size_t>> & pieces, bool transposed) {
        return check_plan(random, cells_of(tensor, n_cells * rows * element, pieces, n_cells, transposed ? element : rows * element, transposed));
    };
    CHECK(blocks(&k, {{0, 20}}, false) == 1, "20 neighbours");
    CHECK(blocks(&v, {{0, 20}}, true) == 1, "20 neighbours, transposed");
    CHECK(blocks(&v, {{17, 18}}, true) == 1, "one cell, transposed");
    CHECK(blocks(&v, {{0, 256}}, true) == 1, "all cells, transposed");
    const std::vector<std::pair<size_t, size_t>> five = {{3, 4}, {10, 17}, {20, 22}, {99, 130}, {200, 201}};
    CHECK(blocks(&k, five, false) == 5, "five pieces");
    CHECK(blocks(&v, five, true) == 5, "five pieces, transposed");
    // the last cell of a row and the first one of the next are neighbours
    const std::vector<std::pair<size_t, size_t>> ends = {{0, 4}, {100, 101}, {250, 256}};
    CHECK(blocks(&v, ends, true) <= 5, "pieces at both ends, transposed");
    std::vector<std::pair<size_t, size_t>> comb;
    for (size_t i = 0; i < 60; i++) {
        comb.emplace_back(4 * i, 4 * i + 1 + i % 3);
    }
    CHECK(blocks(&v, comb, true) == 60, "sixty pieces, transposed");
    std::vector<std::pair<size_t, size_t>> even;
    for (size_t i = 0; i < 128; i++) {
        even.emplace_back(2 * i, 2 * i + 1);
    }
    std::vector<std::pair<size_t, size_t>> turns(even.begin(), even.begin() + 20);
    CHECK(blocks(&k, turns, false) == 1, "two sequences by turns");
    CHECK(blocks(&v, turns, true) == 20, "two sequences by turns, transposed");
    CHECK(blocks(&k, even, false) == 1, "every second cell");
    CHECK(blocks(&v, even, true) == 1, "every second cell, transposed");
    return 12;
}

//
// copies
//

static ggml_backend_reg_t loopback = nullptr;

// Tensors side by side in one buffer, the second one a view with no buffer of its own.
struct Tensors {
    static const size_t size = 1200;

    ggml_context_ptr           context;
    ggml_backend_buffer_ptr    buffer;
    ggml_tensor *              whole;
    std::vector<ggml_tensor *> tensors;

    Tensors(ggml_backend_buffer_type_t buft, size_t factor = 1) : context(ggml_init({8 * ggml_tensor_overhead(), nullptr, true})) {
        const size_t each = size * factor;
        whole = ggml_new_tensor_1d(context.get(), GGML_TYPE_I8, (int64_t) (4 * each));
        buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(context.get(), buft));
        CHECK(buffer, "no memory");
        tensors = {whole, ggml_view_1d(context.get(), whole, (int64_t) each, 2 * each), ggml_view_1d(context.get(), whole, (int64_t) each, 3 * each)};
        for (size_t i = 1; i < 3; i++) {
            CHECK(ggml_backend_view_init(tensors[i]) == GGML_STATUS_SUCCESS, "view");
        }
        tensors[1]->buffer = nullptr;
    }

    std::vector<uint8_t> get() const {
        std::vector<uint8_t> bytes(ggml_nbytes(whole));
        ggml_backend_tensor_get(whole, bytes.data(), 0, bytes.size());
        return bytes;
    }

    std::vector<uint8_t> scramble(Random & random) const {
        std::vector<uint8_t> bytes(ggml_nbytes(whole));
        for (auto & byte : bytes) {
            byte = (uint8_t) random.engine();
        }
        ggml_backend_tensor_set(whole, bytes.data(), 0, bytes.size());
        return bytes;
    }

    size_t place(const Byte & byte) const { return byte.second + (byte.first == whole ? 0 : byte.first->view_offs); }
};

static std::vector<uint8_t> contents(const llama_state_memory & memory) {
    std::vector<uint8_t> bytes(memory.size());
    for (size_t at = 0; at < bytes.size(); at += memory.limit()) {
        CHECK(memory.offset(at) == 0, "chunk");
        ggml_backend_tensor_get(memory.chunk(at), &bytes[at], 0, std::min(memory.limit(), bytes.size() - at));
    }
    return bytes;
}

// Save, scramble, restore to other places: every byte, and every byte around.
static void check_copy(Random & random, ggml_backend_t backend, const Tensors & t, const Ranges & saved, const Ranges & restored,
        ggml_backend_buffer_type_t packed_type, llama_device_state_copy how) {
    const size_t total = bytes_of(saved);
    CHECK(total == bytes_of(restored), "the test's own ranges");
    const auto memory = llama_state_memory::alloc(packed_type, total);
    CHECK(memory && memory->size() == total && memory->buft() == packed_type, "no packed memory");

    const std::vector<uint8_t> before = t.scramble(random);
    llama_state_copy(backend, llama_state_plan(saved), *memory, llama_state_direction::SAVE, how);
    CHECK(t.get() == before, "saving changed the tensors");
    std::vector<uint8_t> packed;
    for (const Byte & byte : packed_bytes(saved)) {
        packed.push_back(before[t.place(byte)]);
    }
    CHECK(contents(*memory) == packed, "the packed bytes differ");

    std::vector<uint8_t> expected = t.scramble(random);
    llama_state_copy(backend, llama_state_plan(restored), *memory, llama_state_direction::RESTORE, how);
    const std::vector<Byte> places = packed_bytes(restored);
    for (size_t i = 0; i < places.size(); i++) {
        expected[t.place(places[i])] = packed[i];
    }
    CHECK(t.get() == expected, "the restored bytes or those around them differ");
    CHECK(contents(*memory) == packed, "restoring changed the packed bytes");
}

// As many bytes as `size`, from the first ranges.
static Ranges cut_to(const Ranges & ranges, size_t size) {
    Ranges res;
    for (auto range : ranges) {
        range.size = std::min(range.size, size);
        size -= range.size;
        res.push_back(range);
    }
    return res;
}

static std::pair<Ranges, Ranges> two_places(Random & random, const Tensors & t, size_t unit) {
    Ranges a = random_ranges(random, {t.tensors[1], t.tensors[2]}, Tensors::size, true, unit);
    Ranges b = random_ranges(random, {t.tensors[2], t.tensors[1]}, Tensors::size, true, unit);
    const size_t size = std::min(bytes_of(a), bytes_of(b));
    return {cut_to(a, size), cut_to(b, size)};
}

static const llama_device_state_copy ways[] = {
    LLAMA_DEVICE_STATE_COPY_AUTO, LLAMA_DEVICE_STATE_COPY_ASYNC, LLAMA_DEVICE_STATE_COPY_GRAPH, LLAMA_DEVICE_STATE_COPY_STAGED};

static loopback_counts counts() {
    loopback_counts found;
    loopback_stats(0, &found);
    return found;
}

static ggml_backend_ptr cpu_backend() {
    ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_ptr   cpu(ggml_backend_dev_init(dev, nullptr));
    const auto set_n_threads = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(dev), "ggml_backend_set_n_threads");
    set_n_threads(cpu.get(), 1); // OpenMP is not instrumented
    return cpu;
}

static ggml_backend_ptr loopback_backend(loopback_mode mode) {
    loopback_set(0, LOOPBACK_MODE, mode);
    ggml_backend_ptr backend(ggml_backend_dev_init(ggml_backend_reg_dev_get(loopback, 0), nullptr));
    const auto set_n_threads = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(loopback, "ggml_backend_set_n_threads");
    set_n_threads(backend.get(), 1);
    return backend;
}

static size_t run_copy(uint64_t seed, size_t rounds) {
    Random random(seed);
    size_t done = 0;
    ggml_backend_buffer_type_t host = ggml_backend_cpu_buffer_type();
    ggml_backend_buffer_type_t dev  = ggml_backend_dev_buffer_type(ggml_backend_reg_dev_get(loopback, 0));

    const ggml_backend_ptr cpu = cpu_backend();
    const Tensors on_host(host);
    for (size_t i = 0; i < rounds; i++) {
        for (const auto how : ways) {
            const auto [saved, restored] = two_places(random, on_host, random.once_in(2) ? 1 : 4);
            check_copy(random, random.once_in(4) ? nullptr : cpu.get(), on_host, saved, restored, host, how);
            done++;
        }
    }
    {   // more than one thread's worth
        const Tensors large(host, 1000);
        const size_t size = 1000 * Tensors::size - 64;
        for (const size_t at : {0, 1, 2, 4}) {
            check_copy(random, cpu.get(), large, {{large.tensors[1], at, size}}, {{large.tensors[2], 0, size}}, host, LLAMA_DEVICE_STATE_COPY_AUTO);
            done++;
        }
    }

    for (const auto mode : {LOOPBACK_DEFERRED, LOOPBACK_WORKER, LOOPBACK_IMMEDIATE}) {
        const ggml_backend_ptr backend = loopback_backend(mode);
        const Tensors on_device(dev);
        for (size_t i = 0; i < rounds; i++) {
            for (const auto how : ways) {
                const auto [saved, restored] = two_places(random, on_device, random.once_in(2) ? 1 : 4);
                // faults of the device must not be seen in the bytes
                const size_t fault = random.pick(0, 9);
                loopback_set(0, LOOPBACK_REFUSE_ASYNC, fault == 1 || fault == 2);
                loopback_set(0, LOOPBACK_REFUSE_COPY, fault == 2);
                loopback_set(0, LOOPBACK_FAIL_COMPUTE, fault == 3 ? random.pick(1, 2) : 0);
                loopback_set(0, LOOPBACK_MAX_SIZE, fault == 4 ? 300 : fault == 5 ? 512 : UINT64_MAX);
                check_copy(random, fault == 6 ? nullptr : backend.get(), on_device, saved, restored, fault == 7 ? host : dev, how);
                loopback_defaults(0);
                done++;
            }
        }
    }
    {   // more blocks than nodes in a graph
        const ggml_backend_ptr backend = loopback_backend(LOOPBACK_DEFERRED);
        const Tensors large(dev, 100);
        Ranges many;
        for (size_t at = 0; many.size() < 2500; at += 4 * random.pick(3, 9)) {
            many.push_back({large.tensors[1], at, 4 * random.pick(1, 2)});
        }
        const size_t blocks = llama_state_plan(many).size();
        loopback_reset(0);
        check_copy(random, backend.get(), large, many, {{large.tensors[2], 8, bytes_of(many)}}, dev, LLAMA_DEVICE_STATE_COPY_GRAPH);
        CHECK(blocks > 1024 && counts().computes == (blocks + 1023) / 1024 + 1, "%zu blocks, %llu graphs", blocks, (unsigned long long) counts().computes);
        done++;
    }
    CHECK(counts().live_bytes == 0, "%llu bytes are left on the device", (unsigned long long) counts().live_bytes);
    return done;
}

// Rows of a state that is larger than caches are, at every place in a line: the same bytes, and no others.
static size_t run_large() {
    const size_t total = 34 * 1024 * 1024, each = 50 * 1024 * 1024;
    const ggml_backend_ptr cpu = cpu_backend();
    ggml_context_ptr context(ggml_init({8 * ggml_tensor_overhead(), nullptr, true}));
    ggml_tensor * tensors[] = {ggml_new_tensor_1d(context.get(), GGML_TYPE_I8, each), ggml_new_tensor_1d(context.get(), GGML_TYPE_I8, each)};
    const ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors_from_buft(context.get(), ggml_backend_cpu_buffer_type()));
    CHECK(buffer, "no memory");
    uint8_t * from = (uint8_t *) tensors[0]->data;
    uint8_t * to   = (uint8_t *) tensors[1]->data;
    uint32_t  word = 1;
    for (size_t i = 0; i < each; i++) {
        from[i] = (uint8_t) ((word = word * 1664525 + 1013904223) >> 24);
    }
    const std::vector<uint8_t> before(from, from + each);

    const size_t shapes[][3] = {{384, 400, 1}, {512, 513, 0}, {575, 700, 3}, {4000, 4096, 32}, {4099, 5001, 63}, {300001, 300007, 17}, {total, total, 5}};
    for (const auto & [width, pitch, at] : shapes) {
        const size_t count = total / width;
        Ranges saved, restored;
        for (size_t i = 0; i < count; i++) {
            saved.push_back({tensors[0], at + i * pitch, width});
            restored.push_back({tensors[1], 2 * at + 1 + i * pitch, width});
        }
        const auto memory = llama_state_memory::alloc(ggml_backend_cpu_buffer_type(), width * count);
        CHECK(memory, "no packed memory");
        llama_state_copy(cpu.get(), llama_state_plan(saved), *memory, llama_state_direction::SAVE, LLAMA_DEVICE_STATE_COPY_AUTO);
        CHECK(memcmp(from, before.data(), each) == 0, "saving rows of %zu changed the tensor", width);
        memset(to, 0, each);
        std::vector<uint8_t> expected(each, 0);
        for (size_t i = 0; i < count; i++) {
            memcpy(&expected[restored[i].offset], &before[saved[i].offset], width);
        }
        llama_state_copy(cpu.get(), llama_state_plan(restored), *memory, llama_state_direction::RESTORE, LLAMA_DEVICE_STATE_COPY_AUTO);
        CHECK(memcmp(to, expected.data(), each) == 0, "rows of %zu: the restored bytes or those around them differ", width);
    }
    return std::size(shapes);
}

// Each way is what it says: how often the device is asked, and what crosses to the host.
static size_t run_counts() {
    ggml_backend_buffer_type_t dev = ggml_backend_dev_buffer_type(ggml_backend_reg_dev_get(loopback, 0));
    const ggml_backend_ptr backend = loopback_backend(LOOPBACK_DEFERRED);
    const Tensors t(dev);
    Ranges rows; // 24 rows of 12 bytes in two blocks
    for (size_t i = 0; i < 24; i++) {
        rows.push_back({t.tensors[1 + i / 12], 4 + 48 * (i % 12), 12});
    }
    const auto memory = llama_state_memory::alloc(dev, bytes_of(rows));
    const Blocks blocks = llama_state_plan(rows);
    CHECK(blocks.size() == 2, "%zu blocks", blocks.size());
    const auto count = [&](llama_device_state_copy how, llama_state_direction direction) {
        loopback_reset(0);
        llama_state_copy(backend.get(), blocks, *memory, direction, how);
        return counts();
    };
    for (const auto direction : {llama_state_direction::SAVE, llama_state_direction::RESTORE}) {
        loopback_counts found = count(LLAMA_DEVICE_STATE_COPY_ASYNC, direction);
        CHECK(found.async_copies == 24 && found.copy_bytes == 288 && found.synchronizes == 1 && found.gets + found.sets + found.computes == 0, "async");
        found = count(LLAMA_DEVICE_STATE_COPY_GRAPH, direction);
        CHECK(found.computes == 1 && found.nodes == 2 && found.synchronizes == 1 && found.copies + found.gets + found.sets == 0, "graph");
        found = count(LLAMA_DEVICE_STATE_COPY_AUTO, direction);
        CHECK(found.computes == 1 && found.copies + found.gets + found.sets == 0, "many rows: a graph");
        found = count(LLAMA_DEVICE_STATE_COPY_STAGED, direction);
        CHECK(found.gets == 24 && found.sets == 24 && found.get_bytes == 288 && found.set_bytes == 288 && found.copies + found.computes == 0, "staged");
        loopback_set(0, LOOPBACK_FAIL_COMPUTE, 1);
        found = count(LLAMA_DEVICE_STATE_COPY_GRAPH, direction);
        CHECK(found.computes_failed == 1 && found.async_copies == 24 && found.gets + found.sets == 0, "a graph that fails");
        loopback_set(0, LOOPBACK_REFUSE_ASYNC, 1);
        found = count(LLAMA_DEVICE_STATE_COPY_ASYNC, direction);
        CHECK(found.async_copies == 0 && found.copies == 24 && found.gets + found.sets == 0, "async refused");
        loopback_set(0, LOOPBACK_REFUSE_COPY, 1);
        found = count(LLAMA_DEVICE_STATE_COPY_ASYNC, direction);
        CHECK(found.copies == 0 && found.gets == 24 && found.sets == 24, "every copy refused");
        loopback_defaults(0);
    }
    Ranges whole; // two tensors side by side
    for (size_t i = 0; i < 2; i++) {
        whole.push_back({t.tensors[1 + i], 0, Tensors::size});
    }
    const auto both = llama_state_memory::alloc(dev, bytes_of(whole));
    for (const auto how : {LLAMA_DEVICE_STATE_COPY_AUTO, LLAMA_DEVICE_STATE_COPY_STAGED}) {
        loopback_reset(0);
        llama_state_copy(backend.get(), llama_state_plan(whole), *both, llama_state_direction::SAVE, how);
        const bool one = how == LLAMA_DEVICE_STATE_COPY_AUTO;
        CHECK(counts().async_copies == (one ? 1 : 0) && counts().gets == (one ? 0 : 2), "neighbours: one copy; staged, each for itself");
    }
    Ranges odd; // words at these addresses would not be aligned, which the CPU bears and others do not
    for (size_t i = 0; i < 12; i++) {
        odd.push_back({t.tensors[1], 4 + 49 * i, 12});
    }
    loopback_reset(0);
    llama_state_copy(backend.get(), llama_state_plan(odd), *memory, llama_state_direction::SAVE, LLAMA_DEVICE_STATE_COPY_GRAPH);
    CHECK(counts().computes == 0 && counts().async_copies == 12, "an odd pitch in a graph");
    loopback_set(0, LOOPBACK_FAIL_ALLOC, 1);
    CHECK(!llama_state_memory::alloc(dev, 1000), "memory that was refused");
    loopback_set(0, LOOPBACK_MAX_SIZE, 256);
    loopback_set(0, LOOPBACK_FAIL_ALLOC, 3);
    const uint64_t live = counts().live_bytes;
    CHECK(!llama_state_memory::alloc(dev, 1000), "the third chunk was refused");
    CHECK(counts().live_bytes == live, "the first two chunks are left");
    loopback_defaults(0);
    return 17;
}

int main(int argc, char ** argv) {
    const std::vector<std::string> args(argv + 1, argv + argc);
    CHECK(!args.empty(), "which mode?");
    const auto number = [&](size_t i) { return strtoull(args.at(i).c_str(), nullptr, 10); };
    if (args[0] == "copy" || args[0] == "large" || args[0] == "counts") {
        CHECK(ggml_backend_load(args.at(1).c_str()) != nullptr, "no CPU plug-in");
        loopback = ggml_backend_init();
    }
    const size_t done =
        args[0] == "plan"   ? run_plan(number(1), number(2)) :
        args[0] == "shapes" ? run_shapes() :
        args[0] == "blob"   ? run_blob() :
        args[0] == "copy"   ? run_copy(number(2), number(3)) :
        args[0] == "large"  ? run_large() :
        args[0] == "counts" ? run_counts() : 0;
    CHECK(done > 0, "unknown mode %s", args[0].c_str());
    printf("ok %zu\n", done);
    return 0;
}

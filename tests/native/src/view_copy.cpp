// Instrument of tests/native/test_view_copy.py. Each mode ends with one line of JSON on stdout and exit code 0, or stops at
// the first wrong byte (exit code 3), or in an assertion of ggml (SIGABRT).
//
//   copy HOW SRC SRCSHAPE DST DSTSHAPE [refuse] [late] [like-rpc]   HOW: sync | async | async-cpu:PLUGIN | buffer
//        SRC/DST: host | device                          SHAPE: plain | view | viewview
//        late: the views are made before their owner is allocated
//   edge NAME        self | same-memory | zero | no-buffer-src | no-buffer-dst | no-data | meta | const
//   alloc NAME       see alloc_case
//   plugin FILE      every buffer type of every device of that plug-in
//   all              everything above that is expected to succeed, in one process (for sanitizers)

#include "fake_device.h"

#ifdef HAVE_RPC
#include "ggml-rpc.h"
#include <thread>
#include <chrono>
#endif

#include <functional>
#include <string>
#include <vector>

static const int64_t N = 64, PAD = 24; // F32 elements: of what is copied, and of its owner on either side

struct object {
    ggml_context *        ctx    = nullptr;
    ggml_backend_buffer_t buffer = nullptr;
    ggml_tensor *         root   = nullptr; // N + 2*PAD elements
    ggml_tensor *         tensor = nullptr; // the N that take part in the copy: root's middle, or a tensor of its own

    object(ggml_backend_buffer_type_t buft, const std::string & shape, bool late = false) {
        ctx = ggml_init({ 16*ggml_tensor_overhead(), nullptr, true });
        CHECK(ctx, "ggml_init");
        const bool view = shape != "plain";
        auto make_view = [&] {
            if (shape == "viewview") {
                ggml_tensor * outer = ggml_view_1d(ctx, root, N + PAD, PAD*sizeof(float)/2);
                tensor = ggml_view_1d(ctx, outer, N, PAD*sizeof(float)/2);
                CHECK(tensor->view_src == root && tensor->view_offs == PAD*sizeof(float), "a view of a view is not flattened");
            } else {
                tensor = ggml_view_1d(ctx, root, N, PAD*sizeof(float));
            }
            ggml_set_name(tensor, "view");
        };
        root = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, view ? N + 2*PAD : N);
        ggml_set_name(root, "root");
        if (view && late) {
            make_view();
        }
        // by hand: ggml_backend_alloc_ctx_tensors_from_buft would initialize the views
        buffer = ggml_backend_buft_alloc_buffer(buft, ggml_backend_buft_get_alloc_size(buft, root) + 4096);
        CHECK(buffer, "buffer");
        ggml_tallocr alloc = ggml_tallocr_new(buffer);
        if (buft == fake::buffer_type()) {
            alloc.offset += 1024; // the owner does not begin where the buffer does
        }
        ggml_tallocr_alloc(&alloc, root);
        if (view && !late) {
            make_view();
        }
        if (!view) {
            tensor = root;
        } else {
            CHECK(tensor->buffer == nullptr, "the view has a buffer");
        }
    }

    object(const object &) = delete;

    ~object() {
        ggml_backend_buffer_free(buffer);
        ggml_free(ctx);
    }

    std::vector<uint8_t> read() const {
        std::vector<uint8_t> bytes(ggml_nbytes(root));
        ggml_backend_tensor_get(root, bytes.data(), 0, bytes.size());
        return bytes;
    }

    void fill(uint32_t seed) {
        std::vector<uint8_t> bytes(ggml_nbytes(root));
        for (auto & b : bytes) {
            seed = seed*1664525u + 1013904223u;
            b    = (uint8_t) (seed >> 24);
        }
        ggml_backend_tensor_set(root, bytes.data(), 0, bytes.size());
    }

    size_t offset() const { return tensor == root ? 0 : tensor->view_offs; }
};

using copy_fn = std::function<void(ggml_tensor *, ggml_tensor *)>;

static void copy_and_compare(object & src, object & dst, const copy_fn & copy) {
    src.fill(1);
    dst.fill(2);
    const auto src_before = src.read();
    auto expected = dst.read();
    const ggml_tensor src_struct = *src.tensor, dst_struct = *dst.tensor;

    copy(src.tensor, dst.tensor);

    memcpy(expected.data() + dst.offset(), src_before.data() + src.offset(), ggml_nbytes(src.tensor));
    CHECK(src.read() == src_before, "the source changed");
    CHECK(dst.read() == expected, "the destination is wrong");
    CHECK(memcmp(&src_struct, src.tensor, sizeof(ggml_tensor)) == 0, "the source's tensor was changed");
    CHECK(memcmp(&dst_struct, dst.tensor, sizeof(ggml_tensor)) == 0, "the destination's tensor was changed");
}

static ggml_backend_t cpu_backend(const std::string & plugin) {
    static ggml_backend_t backend = [&] {
        ggml_backend_reg_t reg = ggml_backend_load(plugin.c_str());
        CHECK(reg, "cannot load %s", plugin.c_str());
        return ggml_backend_dev_init(ggml_backend_reg_dev_get(reg, 0), nullptr);
    }();
    CHECK(backend, "no back end");
    return backend;
}

static copy_fn copier(const std::string & how) {
    if (how == "sync") {
        return [](ggml_tensor * s, ggml_tensor * d) { ggml_backend_tensor_copy(s, d); };
    }
    if (how == "async") {
        return [](ggml_tensor * s, ggml_tensor * d) { ggml_backend_tensor_copy_async(fake::backend(), fake::backend(), s, d); };
    }
    if (how == "buffer") { // what RPC's server calls
        return [](ggml_tensor * s, ggml_tensor * d) { CHECK(ggml_backend_buffer_copy_tensor(s, d), "refused"); };
    }
    CHECK(how.rfind("async-cpu:", 0) == 0, "HOW is %s", how.c_str());
    ggml_backend_t cpu = cpu_backend(how.substr(10));
    return [cpu](ggml_tensor * s, ggml_tensor * d) { ggml_backend_tensor_copy_async(cpu, cpu, s, d); };
}

static ggml_backend_buffer_type_t buft_of(const std::string & where) {
    CHECK(where == "host" || where == "device", "%s", where.c_str());
    return where == "host" ? ggml_backend_cpu_buffer_type() : fake::buffer_type();
}

static void print_calls() {
    const auto & c = fake::calls();
    printf("{\"set\": %d, \"get\": %d, \"cpy\": %d, \"async\": %d, \"refused\": %d, \"buffers\": %d, \"views_initialized\": %d}\n",
        c.set, c.get, c.cpy, c.async, c.refused, c.buffers, c.views_initialized);
}

static void run_copy(const std::string & how, const std::string & src_where, const std::string & src_shape,
        const std::string & dst_where, const std::string & dst_shape, bool refuse, bool late, bool like_rpc) {
    fake::config().refuse_cpy = refuse;
    fake::config().like_rpc   = like_rpc;
    object src(buft_of(src_where), src_shape, late);
    object dst(buft_of(dst_where), dst_shape, late);
    fake::calls() = {};
    const auto copy = copier(how);
    fake::counters during;
    copy_and_compare(src, dst, [&](ggml_tensor * s, ggml_tensor * d) {
        fake::calls() = {};
        copy(s, d);
        during = fake::calls();
    });
    fake::calls() = during; // of the copy only
    fake::config().refuse_cpy = false;
}

static void run_edge(const std::string & name) {
    object a(fake::buffer_type(), "view"), b(fake::buffer_type(), "view");
    a.fill(1);
    b.fill(2);
    const auto a_before = a.read(), b_before = b.read();
    fake::calls() = {};
    if (name == "self") {
        ggml_backend_tensor_copy(a.tensor, a.tensor);
        ggml_backend_tensor_copy_async(fake::backend(), fake::backend(), a.tensor, a.tensor);
    } else if (name == "same-memory") { // two tensors, one range
        ggml_tensor * all = ggml_view_1d(a.ctx, a.root, a.root->ne[0], 0);
        ggml_backend_tensor_copy(all, a.root);
        ggml_backend_tensor_copy(a.root, all);
        ggml_backend_tensor_copy_async(fake::backend(), fake::backend(), all, a.root);
        CHECK(ggml_backend_buffer_copy_tensor(all, a.root), "refused");
    } else if (name == "zero") {
        ggml_tensor * none_a = ggml_view_1d(a.ctx, a.root, 0, 16);
        ggml_tensor * none_b = ggml_view_1d(b.ctx, b.root, 0, 32);
        ggml_backend_tensor_copy(none_a, none_b);
        ggml_backend_tensor_copy_async(fake::backend(), fake::backend(), none_a, none_b);
        CHECK(ggml_backend_buffer_copy_tensor(none_a, none_b), "refused");
    } else if (name == "no-buffer-src" || name == "no-buffer-dst" || name == "no-data") {
        ggml_context * ctx = ggml_init({ 4*ggml_tensor_overhead(), nullptr, true });
        ggml_tensor * lost = ggml_view_1d(ctx, ggml_new_tensor_1d(ctx, GGML_TYPE_F32, N), N, 0); // its owner has none either
        if (name == "no-data") {
            lost->view_src->buffer = a.buffer;
        }
        if (name == "no-buffer-dst") {
            ggml_backend_tensor_copy(b.tensor, lost);
        } else {
            ggml_backend_tensor_copy(lost, a.tensor);
        }
    } else if (name == "const") { // a source that may not be written to
        static ggml_tensor frozen;
        frozen = *a.tensor;
#if GGML_BACKEND_API_VERSION >= 2
        const ggml_tensor * src = &frozen;
#else
        ggml_tensor * src = &frozen;
#endif
        ggml_backend_tensor_copy(src, b.tensor);
        CHECK(memcmp(&frozen, a.tensor, sizeof(frozen)) == 0, "written to");
        CHECK(ggml_backend_view_init(b.tensor) == GGML_STATUS_SUCCESS, "can still be initialized afterwards");
        return;
    } else {
        CHECK(false, "unknown edge %s", name.c_str());
    }
    CHECK(a.read() == a_before && b.read() == b_before, "something changed");
    CHECK(fake::calls().cpy == 0, "cpy_tensor was called for nothing");
}

// Which views does ggml_backend_alloc_ctx_tensors_from_buft leave without a buffer? "big" exceeds the buffer type's max_size.
static void run_alloc(const std::string & name) {
    fake::config().max_size = 1024;
    ggml_context * ctx = ggml_init({ 16*ggml_tensor_overhead(), nullptr, true });
    object outside(fake::buffer_type(), "plain");
    auto tensor = [&](size_t bytes) { return ggml_new_tensor_1d(ctx, GGML_TYPE_I8, (int64_t) bytes); };
    auto view   = [&](ggml_tensor * t) { return ggml_view_1d(ctx, t, 16, 32); };
    size_t bytes = 0;
    int buffers = 1;
    if (name == "big-view") {
        view(tensor(bytes = 4096));
    } else if (name == "big-views") {
        ggml_tensor * big = tensor(bytes = 4096);
        view(view(big));
        view(big);
    } else if (name == "small-big-views") {
        ggml_tensor * small = tensor(512);
        ggml_tensor * big = tensor(4096);
        view(small);
        view(big);
        bytes = 512 + 4096;
        buffers = 2;
    } else if (name == "big-view-big-view") {
        view(tensor(4096));
        view(tensor(2048));
        bytes = 4096 + 2048;
        buffers = 2;
    } else if (name == "big-empty") { // no view, but the same remainder: a tensor without elements
        tensor(bytes = 4096);
        tensor(0);
    } else if (name == "big-view-small") { // from here on: cases that upstream serves
        view(tensor(4096));
        tensor(512);
        bytes = 4096 + 512;
        buffers = 2;
    } else if (name == "split-view") { // split, but nothing exceeds: the views end up in the second range
        ggml_tensor * first = tensor(1024);
        ggml_tensor * second = tensor(1024);
        view(first);
        view(second);
        bytes = 2048;
        buffers = 2;
    } else if (name == "outside-first") { // views of an owner that was allocated before, in front of and behind a tensor
        ggml_view_1d(ctx, outside.root, 4, 16);
        tensor(bytes = 512);
        ggml_view_1d(ctx, outside.root, 4, 16);
    } else if (name == "outside-only") {
        ggml_view_1d(ctx, outside.root, 4, 16);
        buffers = 0;
    } else {
        CHECK(false, "unknown case %s", name.c_str());
    }
    fake::calls() = {};
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors_from_buft(ctx, fake::buffer_type());
    CHECK((buffer != nullptr) == (buffers > 0), "buffer %p", (void *) buffer);
    CHECK(fake::calls().buffers == buffers, "%d buffers", fake::calls().buffers);
    if (buffer) {
        CHECK(ggml_backend_buffer_get_size(buffer) == bytes, "%zu bytes", ggml_backend_buffer_get_size(buffer));
    }
    int missing = 0;
    for (ggml_tensor * t = ggml_get_first_tensor(ctx); t; t = ggml_get_next_tensor(ctx, t)) {
        if (t->buffer == nullptr || t->data == nullptr) {
            missing++;
        } else if (t->view_src) {
            CHECK(t->buffer == t->view_src->buffer, "another buffer than its owner's");
            CHECK(t->data == (char *) t->view_src->data + t->view_offs, "another address");
        }
    }
    ggml_backend_buffer_free(buffer);
    ggml_free(ctx);
    fake::config().max_size = SIZE_MAX;
    if (name != "outside-only") { // as upstream has it: nothing to allocate, nothing done
        CHECK(missing == 0, "%d tensors without a buffer", missing);
    }
}

#ifdef HAVE_RPC
// a server of this process on the CPU plug-in, so that RPC has a device whose cpy_tensor can be asked
static ggml_backend_dev_t rpc_device(ggml_backend_reg_t reg, const std::string & cpu_plugin, const char * endpoint) {
    auto start = (decltype(ggml_backend_rpc_start_server) *) ggml_backend_reg_get_proc_address(reg, "ggml_backend_rpc_start_server");
    CHECK(start, "no ggml_backend_rpc_start_server");
    ggml_backend_t cpu = cpu_backend(cpu_plugin);
#if GGML_BACKEND_API_VERSION >= 2
    std::thread([=] {
        ggml_backend_dev_t devices[] = { ggml_backend_get_device(cpu) };
        start(endpoint, nullptr, 1, 1, devices);
    }).detach();
#else
    std::thread([=] { start(cpu, endpoint, nullptr, 1 << 30, 1 << 30); }).detach();
#endif
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
#if GGML_BACKEND_API_VERSION >= 2
    auto add = (decltype(ggml_backend_rpc_add_server) *) ggml_backend_reg_get_proc_address(reg, "ggml_backend_rpc_add_server");
    ggml_backend_reg_t server = add ? add(endpoint) : nullptr;
    return server && ggml_backend_reg_dev_count(server) ? ggml_backend_reg_dev_get(server, 0) : nullptr;
#else
    auto add = (decltype(ggml_backend_rpc_add_device) *) ggml_backend_reg_get_proc_address(reg, "ggml_backend_rpc_add_device");
    return add ? add(endpoint) : nullptr;
#endif
}
#endif

static int through_buffer_type(ggml_backend_buffer_type_t buft) {
    const char * shapes[] = { "plain", "view", "viewview" };
    ggml_backend_buffer_type_t host = ggml_backend_cpu_buffer_type();
    int copies = 0;
    for (auto pair : { std::make_pair(buft, buft), std::make_pair(buft, host), std::make_pair(host, buft) }) {
        for (const char * src_shape : shapes) {
            for (const char * dst_shape : shapes) {
                for (bool late : { false, true }) {
                    object src(pair.first, src_shape, late), dst(pair.second, dst_shape, late);
                    copy_and_compare(src, dst, copier("sync"));
                    copies++;
                }
            }
        }
    }
    return copies;
}

static int through_async(ggml_backend_dev_t dev) {
    ggml_backend_t backend = ggml_backend_dev_init(dev, nullptr);
    CHECK(backend, "no back end");
    int copies = 0;
    for (const char * src_shape : { "plain", "view" }) {
        for (const char * dst_shape : { "plain", "view" }) {
            ggml_backend_buffer_type_t buft = ggml_backend_dev_buffer_type(dev);
            object src(buft, src_shape), dst(buft, dst_shape);
            copy_and_compare(src, dst, [&](ggml_tensor * s, ggml_tensor * d) {
                ggml_backend_tensor_copy_async(backend, backend, s, d);
                ggml_backend_synchronize(backend);
            });
            copies++;
        }
    }
    ggml_backend_free(backend);
    return copies;
}

static void run_plugin(const char * file, const char * cpu_plugin, const char * endpoint) {
    ggml_backend_reg_t reg = ggml_backend_load(file);
    CHECK(reg, "cannot load %s", file);
    std::vector<ggml_backend_dev_t> devices;
    for (size_t i = 0; i < ggml_backend_reg_dev_count(reg); i++) {
        devices.push_back(ggml_backend_reg_dev_get(reg, i));
    }
#ifdef HAVE_RPC
    if (strcmp(ggml_backend_reg_name(reg), "RPC") == 0) {
        ggml_backend_dev_t dev = rpc_device(reg, cpu_plugin, endpoint);
        CHECK(dev, "no RPC device");
        devices.push_back(dev);
    }
#endif
    (void) cpu_plugin;
    (void) endpoint;
    std::string tested, skipped;
    for (ggml_backend_dev_t dev : devices) {
        std::vector<ggml_backend_buffer_type_t> bufts = { ggml_backend_dev_buffer_type(dev) };
        if (auto host = ggml_backend_dev_host_buffer_type(dev)) {
            bufts.push_back(host);
        }
        auto extra = (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts");
        for (ggml_backend_buffer_type_t * b = extra ? extra(dev) : nullptr; b && *b; b++) {
            bufts.push_back(*b);
        }
        for (ggml_backend_buffer_type_t buft : bufts) {
            ggml_backend_buffer_t probe = buft ? ggml_backend_buft_alloc_buffer(buft, 4096) : nullptr;
            const char * reason =
                !buft ? "the device has no memory of its own" :
                !probe ? "cannot allocate" :
                !probe->iface.get_tensor ? "weights only: it cannot be read back (no get_tensor)" : nullptr;
            ggml_backend_buffer_free(probe);
            const std::string name = std::string(ggml_backend_dev_name(dev)) + "/" + (buft ? ggml_backend_buft_name(buft) : "none");
            if (reason) {
                skipped += (skipped.empty() ? "" : ", ") + ("\"" + name + "\": \"" + reason + "\"");
                continue;
            }
            int copies = through_buffer_type(buft);
            if (buft == bufts[0]) {
                copies += through_async(dev);
            }
            tested += (tested.empty() ? "" : ", ") + ("\"" + name + "\": " + std::to_string(copies));
        }
    }
    // one line of its own: an RPC server prints to stdout as well
    printf("\n{\"backend\": \"%s\", \"tested\": {%s}, \"skipped\": {%s}}\n", ggml_backend_reg_name(reg), tested.c_str(), skipped.c_str());
}

static void run_all() {
    for (const char * how : { "sync", "async" }) {
        for (const char * sw : { "host", "device" }) {
            for (const char * ss : { "plain", "view", "viewview" }) {
                for (const char * dw : { "host", "device" }) {
                    for (const char * ds : { "plain", "view", "viewview" }) {
                        for (int flags = 0; flags < 8; flags++) {
                            run_copy(how, sw, ss, dw, ds, flags & 1, flags & 2, flags & 4);
                        }
                    }
                }
            }
        }
    }
    for (const char * name : { "self", "same-memory", "zero", "const" }) {
        run_edge(name);
    }
    for (const char * name : { "big-view", "big-views", "small-big-views", "big-view-big-view", "big-empty", "big-view-small",
            "split-view", "outside-first", "outside-only" }) {
        run_alloc(name);
    }
}

int main(int argc, char ** argv) {
    const std::vector<std::string> args(argv + 1, argv + argc);
    CHECK(!args.empty(), "which mode?");
    auto has = [&](const char * flag) {
        for (const auto & a : args) {
            if (a == flag) {
                return true;
            }
        }
        return false;
    };
    if (args[0] == "copy" && args.size() >= 6) {
        run_copy(args[1], args[2], args[3], args[4], args[5], has("refuse"), has("late"), has("like-rpc"));
        print_calls();
    } else if (args[0] == "edge" && args.size() == 2) {
        run_edge(args[1]);
        print_calls();
    } else if (args[0] == "alloc" && args.size() == 2) {
        run_alloc(args[1]);
        print_calls();
    } else if (args[0] == "plugin" && args.size() == 4) {
        run_plugin(args[1].c_str(), args[2].c_str(), args[3].c_str());
        fflush(stdout);
        _Exit(0); // a server thread may still be running
    } else if (args[0] == "all") {
        run_all();
        print_calls();
    } else {
        CHECK(false, "unknown mode %s", args[0].c_str());
    }
    return 0;
}

// Instrument of tests/native/test_metal_copy.py: the Metal back end's cpy_tensor on the device of metal_stubs. Linked with
// that plug-in. Ends with one line of JSON on stdout and exit code 0, or stops at the first wrong byte (exit code 3).
//
//   copy HOW SRC SRCSHAPE DST DSTSHAPE    HOW: direct (the plug-in's cpy_tensor) | ggml (ggml_backend_tensor_copy)
//        SRC/DST: default (shared, or private with GGML_METAL_SHARED_BUFFERS_DISABLE) | mapped (host memory, shared)
//        SHAPE: plain | view | viewview | late (a view from before its owner was allocated)
//   refused NAME                          see refused_case: cpy_tensor says no and leaves the destination alone
//   fault HOW KIND                        KIND: command-buffer | encoder | error
//   edge NAME                             zero | overlap | touching | bytes | remote | far | queued

#include "fake_device.h"
#include "ggml-metal.h"
#include "metal_stub.h"

#include <algorithm>
#include <string>
#include <vector>

static const size_t N = 256, PAD = 64, ROOM = 4096, MAPPED = 64*1024; // bytes

static ggml_backend_dev_t device(size_t i) { return ggml_backend_reg_dev_get(ggml_backend_metal_reg(), i); }

static ggml_backend_buffer_t make_buffer(const std::string & where, size_t dev = 0) {
    ggml_backend_buffer_t res;
    if (where == "mapped") {
        char * memory = (char *) aligned_alloc(4096, MAPPED); // never freed: as short-lived as this program
        res = ggml_backend_dev_buffer_from_host_ptr(device(dev), memory, MAPPED, 2*ROOM);
    } else if (where == "host") {
        res = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), ROOM);
    } else {
        res = ggml_backend_buft_alloc_buffer(ggml_backend_dev_buffer_type(device(dev)), ROOM);
    }
    CHECK(res, "no buffer");
    return res;
}

struct object {
    ggml_context *        ctx;
    ggml_backend_buffer_t buffer;
    ggml_tensor *         root;   // bytes: N + 2*PAD of them, or N when it is itself the tensor
    ggml_tensor *         tensor; // N bytes, which take part in the copy
    size_t                at = 0; // where these are in root
    std::vector<char>     bytes;  // what root should hold

    object(ggml_backend_buffer_t buffer_, const std::string & shape, char first, size_t offset = 1024) : buffer(buffer_) {
        ctx = ggml_init({ 8*ggml_tensor_overhead(), nullptr, true });
        CHECK(ctx, "ggml_init");
        root = tensor = ggml_new_tensor_1d(ctx, GGML_TYPE_I8, shape == "plain" ? N : N + 2*PAD);
        if (shape == "late") {
            tensor = view(PAD, N);
            CHECK(tensor->data == nullptr, "a view of nothing has an address");
        }
        ggml_backend_tensor_alloc(buffer, root, (char *) ggml_backend_buffer_get_base(buffer) + offset);
        if (shape == "view") {
            tensor = view(PAD, N);
        } else if (shape == "viewview") {
            tensor = ggml_view_1d(ctx, view(PAD/2, N + PAD), N, PAD/2);
        }
        CHECK(tensor == root || tensor->buffer == nullptr, "the view has a buffer");
        at = tensor == root ? 0 : PAD;
        for (size_t i = 0; i < ggml_nbytes(root); i++) {
            bytes.push_back((char) (first + 7*i));
        }
        ggml_backend_tensor_set(root, bytes.data(), 0, bytes.size());
    }

    ggml_tensor * view(size_t offset, size_t size) { return ggml_view_1d(ctx, root, (int64_t) size, offset); }

    void expect(const char * what) const {
        std::vector<char> found(bytes.size());
        ggml_backend_tensor_get(root, found.data(), 0, found.size());
        for (size_t i = 0; i < found.size(); i++) {
            CHECK(found[i] == bytes[i], "%s: byte %zu is %d, not %d", what, i, found[i], bytes[i]);
        }
    }
};

struct counts {
    size_t copies = metal_stub_copies(), bytes = metal_stub_copied_bytes(), violations = metal_stub_violations();

    void report(bool done) const {
        printf("{\"done\": %d, \"copies\": %zu, \"bytes\": %zu, \"violations\": %zu, \"pending\": %zu}\n", done,
            metal_stub_copies() - copies, metal_stub_copied_bytes() - bytes, metal_stub_violations() - violations, metal_stub_pending());
    }
};

static bool direct(const ggml_tensor * src, ggml_tensor * dst) {
    ggml_backend_buffer_t buffer = dst->view_src ? dst->view_src->buffer : dst->buffer;
    return buffer->iface.cpy_tensor(buffer, src, dst);
}

static bool copy(const std::string & how, ggml_tensor * src, ggml_tensor * dst) {
    if (how == "direct") {
        return direct(src, dst);
    }
    ggml_backend_tensor_copy(src, dst);
    return true;
}

static void copied(const object & src, object & dst) {
    std::copy_n(src.bytes.begin() + src.at, N, dst.bytes.begin() + dst.at);
}

// Copies, compares both sides with all that surrounds them, and reports what the device did for it.
static void run_copy(const std::string & how, object & src, object & dst) {
    const counts before;
    const bool done = copy(how, src.tensor, dst.tensor);
    before.report(done);
    if (done) {
        copied(src, dst);
    }
    src.expect("source");
    dst.expect("destination");
}

static void refused_case(const std::string & name) {
    const bool two = name == "other-device";
    object src(make_buffer(name == "host" ? "host" : "default"), "plain", 1), dst(make_buffer("default", two ? 1 : 0), "plain", 2);
    if (name == "smaller") {
        src.tensor = src.view(0, N - 4);
    } else if (name == "no-buffer" || name == "no-memory") {
        ggml_tensor * owner = ggml_new_tensor_1d(src.ctx, GGML_TYPE_I8, N);
        src.tensor = name == "no-buffer" ? owner : ggml_view_1d(src.ctx, owner, N, 0);
    } else if (name == "no-address") {
        ggml_tensor * owner = ggml_new_tensor_1d(src.ctx, GGML_TYPE_I8, N);
        owner->buffer = src.buffer;
        src.tensor = owner;
    } else if (name == "outside") { // of any Metal buffer
        src.tensor = ggml_new_tensor_1d(src.ctx, GGML_TYPE_I8, N);
        src.tensor->buffer = src.buffer;
        src.tensor->data   = (char *) src.root->data + 2*ROOM;
    } else if (name == "multi") { // of Metal's buffer type, but not one of its buffers
        src.tensor = ggml_new_tensor_1d(src.ctx, GGML_TYPE_I8, N);
        src.tensor->buffer = ggml_backend_multi_buffer_alloc_buffer(&src.buffer, 1);
        src.tensor->data   = src.root->data;
    } else {
        CHECK(two || name == "host", "no such case");
    }
    run_copy("direct", src, dst);
    if (two) { // and ggml then goes through the host
        copy("ggml", src.tensor, dst.tensor);
        copied(src, dst);
        dst.expect("through the host");
    }
}

static void edge(const std::string & name) {
    ggml_backend_buffer_t buffer = make_buffer("default");
    if (name == "zero") {
        object src(buffer, "plain", 1), dst(make_buffer("default"), "plain", 2);
        const counts before;
        before.report(direct(src.view(0, 0), dst.view(0, 0)));
        dst.expect("nothing");
    } else if (name == "overlap" || name == "touching") {
        object all(buffer, "late", 1);
        const size_t size = 128, shift = name == "overlap" ? 64 : size;
        const counts before;
        const bool done = direct(all.view(0, size), all.view(shift, size));
        before.report(done);
        if (done) {
            const std::vector<char> old = all.bytes;
            std::copy_n(old.begin(), size, all.bytes.begin() + shift);
        }
        all.expect(name.c_str());
    } else if (name == "bytes") { // Metal's documentation asks for multiples of 4 on macOS
        object src(buffer, "plain", 1), dst(make_buffer("default"), "plain", 2);
        const counts before;
        int done = 0;
        const size_t odd[3][3] = { { 1, 0, 8 }, { 0, 2, 8 }, { 0, 0, 7 } }; // from, to, size
        for (const auto & o : odd) {
            if (direct(src.view(o[0], o[2]), dst.view(o[1], o[2]))) {
                std::copy_n(src.bytes.begin() + o[0], o[2], dst.bytes.begin() + o[1]);
                done++;
            }
        }
        before.report(done == 3);
        dst.expect("bytes");
    } else if (name == "remote") { // as virtgpu decodes a view: its own buffer is right, its owner's from another process
        object src(buffer, "view", 1), dst(make_buffer("default"), "plain", 2);
        ggml_tensor owner = *src.root;
        owner.buffer         = (ggml_backend_buffer_t) 16;
        src.tensor->buffer   = buffer;
        src.tensor->view_src = &owner;
        run_copy("direct", src, dst);
    } else if (name == "far") { // a mapping that needs several Metal buffers: METAL_STUB_MAX_BUFFER
        object src(make_buffer("mapped"), "view", 1, MAPPED - ROOM), dst(buffer, "view", 2);
        run_copy("direct", src, dst);
    } else if (name == "queued") { // what the device has been given before comes first
        object src(buffer, "plain", 1), dst(make_buffer("default"), "plain", 2);
        ggml_backend_t backend = ggml_backend_dev_init(device(0), nullptr);
        CHECK(backend, "no back end");
        std::fill(src.bytes.begin(), src.bytes.end(), 99);
        ggml_backend_tensor_set_async(backend, src.root, src.bytes.data(), 0, N);
        CHECK(metal_stub_pending() == 1, "it is not queued");
        run_copy("direct", src, dst);
        ggml_backend_free(backend);
    } else {
        CHECK(false, "no such case");
    }
}

int main(int argc, char ** argv) {
    const std::vector<std::string> args(argv + 1, argv + argc);
    CHECK(args.size() >= 2, "see the head of this file");
    if (args[0] == "copy") {
        CHECK(args.size() == 6, "see the head of this file");
        object src(make_buffer(args[2]), args[3], 1), dst(make_buffer(args[4]), args[5], 2);
        run_copy(args[1], src, dst);
    } else if (args[0] == "refused") {
        refused_case(args[1]);
    } else if (args[0] == "fault") {
        CHECK(args.size() == 3, "see the head of this file");
        object src(make_buffer("default"), "plain", 1), dst(make_buffer("default"), "view", 2);
        metal_stub_fail_next(args[2] == "command-buffer" ? METAL_STUB_NO_COMMAND_BUFFER :
                             args[2] == "encoder"        ? METAL_STUB_NO_ENCODER : METAL_STUB_ERROR);
        run_copy(args[1], src, dst);
    } else {
        edge(args[1]);
    }
    return 0;
}

// Devices: what they count and what they were told, and how ggml sees them.

#include "device.h"

#include <algorithm>

namespace loopback {

static const uint64_t GIB = 1024ull * 1024 * 1024;

Device::Device(int index, Shared & shared)
    : name("Loopback" + std::to_string(index)), description("CPU behind memory that the host cannot touch"), shared_(shared) {
    defaults();
    buft = make_buffer_type(*this);
    dev  = make_device(*this, registry());
}

void Device::defaults() {
    shared_.settings[LOOPBACK_MODE]          = LOOPBACK_DEFERRED;
    shared_.settings[LOOPBACK_MEMORY]        = 8 * GIB;
    shared_.settings[LOOPBACK_MAX_SIZE]      = 8 * GIB;
    shared_.settings[LOOPBACK_ALLOC_LIMIT]   = UINT64_MAX;
    shared_.settings[LOOPBACK_FAIL_ALLOC]    = 0;
    shared_.settings[LOOPBACK_FAIL_COMPUTE]  = 0;
    shared_.settings[LOOPBACK_REFUSE_COPY]   = 0;
    shared_.settings[LOOPBACK_REFUSE_ASYNC]  = 0;
    shared_.settings[LOOPBACK_OFFLOAD_BATCH] = 32;
    shared_.settings[LOOPBACK_FILL]          = 0xa5; // new memory is not zero on a GPU either
}

bool Device::due(loopback_setting fault) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return shared_.settings[fault] > 0 && --shared_.settings[fault] == 0;
}

loopback_counts Device::stats() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return shared_.counts;
}

void Device::reset() {
    const std::lock_guard<std::mutex> lock(mutex_);
    loopback_counts fresh{};
    fresh.live       = shared_.counts.live;
    fresh.live_bytes = fresh.peak_bytes = shared_.counts.live_bytes;
    shared_.counts           = fresh;
}

bool Device::allocate(size_t size) {
    const bool fails = due(LOOPBACK_FAIL_ALLOC);
    const std::lock_guard<std::mutex> lock(mutex_);
    const uint64_t total = std::min<uint64_t>(shared_.settings[LOOPBACK_MEMORY], shared_.settings[LOOPBACK_ALLOC_LIMIT]);
    if (fails || size > shared_.settings[LOOPBACK_MAX_SIZE] || shared_.counts.live_bytes > total || size > total - shared_.counts.live_bytes) {
        shared_.counts.allocs_failed++;
        return false;
    }
    shared_.counts.allocs++;
    shared_.counts.alloc_bytes += size;
    shared_.counts.live++;
    shared_.counts.live_bytes += size;
    shared_.counts.peak_bytes = std::max(shared_.counts.peak_bytes, shared_.counts.live_bytes);
    return true;
}

void Device::release(size_t size) {
    const std::lock_guard<std::mutex> lock(mutex_);
    shared_.counts.frees++;
    shared_.counts.free_bytes += size;
    shared_.counts.live--;
    shared_.counts.live_bytes -= size;
}

void count_copy(Device & from, Device & to, size_t size, bool async) {
    if (&from == &to) {
        to.count([=](loopback_counts & s) { s.copies++, s.copy_bytes += size, s.async_copies += async; });
        return;
    }
    from.count([=](loopback_counts & s) { s.copies_out++, s.copy_out_bytes += size, s.async_copies += async; });
    to.count([=](loopback_counts & s) { s.copies_in++, s.copy_in_bytes += size, s.async_copies += async; });
}

ggml_backend_dev_t cpu_device() { return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU); }

static void get_memory(ggml_backend_dev_t dev, size_t * free, size_t * total) {
    Device & device = device_of(dev);
    const uint64_t live = device.stats().live_bytes;
    *total = device.get(LOOPBACK_MEMORY);
    *free  = *total > live ? *total - live : 0;
}

// 2026-10 asks whether files may be mapped while they are loaded; pins before do not.
template <class Caps> static auto allow_mmap(Caps & caps, int) -> decltype((void) caps.mmap_support) {
    caps.mmap_support = true;
}
template <class Caps> static void allow_mmap(Caps &, long) {}

static void get_props(ggml_backend_dev_t dev, ggml_backend_dev_props * props) {
    props->name             = device_of(dev).name.c_str();
    props->description      = device_of(dev).description.c_str();
    props->type             = GGML_BACKEND_DEVICE_TYPE_GPU;
    props->caps             = {};
    props->caps.async       = true;
    props->caps.events      = true;
    props->caps.host_buffer = true;
    allow_mmap(props->caps, 0);
    get_memory(dev, &props->memory_free, &props->memory_total);
}

// Nothing is gained by pinning here, but llama.cpp uploads through streams only from such buffers.
static ggml_backend_buffer_type_t get_host_buffer_type(ggml_backend_dev_t) {
    return cpu_device() != nullptr ? ggml_backend_dev_buffer_type(cpu_device()) : nullptr;
}

// Whatever the CPU can, but for functions of the host, which would be called with addresses of the device.
static bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_MAP_CUSTOM1:
        case GGML_OP_MAP_CUSTOM2:
        case GGML_OP_MAP_CUSTOM3:
        case GGML_OP_CUSTOM:
            return false;
        default:
            return cpu_device() != nullptr && ggml_backend_dev_supports_op(cpu_device(), op);
    }
}

// Large matrix products are worth bringing the weights over, as on a GPU.
static bool offload_op(ggml_backend_dev_t dev, const ggml_tensor * op) {
    const uint64_t least = device_of(dev).get(LOOPBACK_OFFLOAD_BATCH);
    const int64_t rows = op->op == GGML_OP_MUL_MAT ? op->ne[1] : op->op == GGML_OP_MUL_MAT_ID ? op->ne[2] : 0;
    return least > 0 && (uint64_t) rows >= least;
}

ggml_backend_device make_device(Device & device, ggml_backend_reg_t reg) {
    ggml_backend_device_i i{};
    i.get_name             = [](ggml_backend_dev_t dev) { return device_of(dev).name.c_str(); };
    i.get_description      = [](ggml_backend_dev_t dev) { return device_of(dev).description.c_str(); };
    i.get_memory           = get_memory;
    i.get_type             = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
    i.get_props            = get_props;
    i.init_backend         = backend_init;
    i.get_buffer_type      = [](ggml_backend_dev_t dev) -> ggml_backend_buffer_type_t { return &device_of(dev).buft; };
    i.get_host_buffer_type = get_host_buffer_type;
    i.supports_op          = supports_op;
    i.supports_buft        = [](ggml_backend_dev_t dev, ggml_backend_buffer_type_t buft) { return buft == &device_of(dev).buft; };
    i.offload_op           = offload_op;
    i.event_new            = event_new;
    i.event_free           = event_free;
    i.event_synchronize    = event_synchronize;
    return {i, reg, &device};
}

} // namespace loopback

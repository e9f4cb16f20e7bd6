// Buffers and buffer types: memory that the host cannot touch.

#include "memory.h"

#include "ggml-impl.h"

#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

namespace loopback {

static const size_t ALIGNMENT = 128;

//
// Memory
//

std::shared_ptr<Memory> Memory::make(Device & device, size_t size) {
    const size_t page   = (size_t) sysconf(_SC_PAGESIZE);
    const size_t mapped = (size + page) / page * page; // at least a byte, so that no two buffers have the same base
    // ggml's addresses, the bytes, and a page that nobody may touch either
    void * all = mmap(nullptr, 2 * mapped + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) {
        return nullptr;
    }
    char * base = static_cast<char *>(all);
    if (mprotect(base + mapped, mapped, PROT_READ | PROT_WRITE) != 0) {
        munmap(all, 2 * mapped + page);
        return nullptr;
    }
    return std::shared_ptr<Memory>(new Memory(device, size, mapped, base));
}

Memory::Memory(Device & device, size_t size, size_t mapped, char * base)
    : device_(device), size_(size), mapped_(mapped), base_(base), bytes_(base + mapped) {
    host_ = ggml_backend_cpu_buffer_from_ptr(bytes_, mapped_);
    const uint64_t fill = device.get(LOOPBACK_FILL);
    if (fill < 256) {
        memset(bytes_, (int) fill, size_);
    }
}

Memory::~Memory() {
    ggml_backend_buffer_free(host_);
    munmap(base_, 2 * mapped_ + (size_t) sysconf(_SC_PAGESIZE));
}

char * Memory::at(const ggml_tensor * tensor, size_t offset, size_t size) const {
    const uintptr_t first = (uintptr_t) tensor->data - (uintptr_t) base_; // huge when the address lies before the base
    if (first > size_ || offset > size_ - first || size > size_ - first - offset) {
        GGML_ABORT("%s: tensor %s, bytes [%zu, +%zu): not in its buffer of %zu", device_.name.c_str(), tensor->name,
            offset, size, size_);
    }
    return bytes_ + first + offset;
}

//
// Buffers
//

static std::shared_ptr<Memory> & context_of(ggml_backend_buffer_t buffer) {
    return *static_cast<std::shared_ptr<Memory> *>(buffer->context);
}

static void buffer_free(ggml_backend_buffer_t buffer) {
    Memory & memory = *context_of(buffer);
    memory.device().release(memory.size());
    delete &context_of(buffer);
}

static void * buffer_get_base(ggml_backend_buffer_t buffer) { return context_of(buffer)->base(); }

static void buffer_memset(ggml_backend_buffer_t buffer, ggml_tensor * tensor, uint8_t value, size_t offset, size_t size) {
    Memory & memory = *context_of(buffer);
    memory.device().count([=](loopback_counts & s) { s.memsets++, s.memset_bytes += size; });
    memset(memory.at(tensor, offset, size), value, size);
}

static void buffer_set(ggml_backend_buffer_t buffer, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    Memory & memory = *context_of(buffer);
    memory.device().count([=](loopback_counts & s) { s.sets++, s.set_bytes += size; });
    memcpy(memory.at(tensor, offset, size), data, size);
}

static void buffer_get(ggml_backend_buffer_t buffer, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
    Memory & memory = *context_of(buffer);
    memory.device().count([=](loopback_counts & s) { s.gets++, s.get_bytes += size; });
    memcpy(data, memory.at(tensor, offset, size), size);
}

// One call for n pieces, as on devices that can do it: counted as one.
static void buffer_set_2d(ggml_backend_buffer_t buffer, ggml_tensor * tensor, const void * data, size_t offset, size_t size,
        size_t n, size_t stride_tensor, size_t stride_data) {
    Memory & memory = *context_of(buffer);
    memory.device().count([=](loopback_counts & s) { s.sets++, s.set_bytes += n * size; });
    for (size_t i = 0; i < n; i++) {
        memcpy(memory.at(tensor, offset + i * stride_tensor, size), (const char *) data + i * stride_data, size);
    }
}

static void buffer_get_2d(ggml_backend_buffer_t buffer, const ggml_tensor * tensor, void * data, size_t offset, size_t size,
        size_t n, size_t stride_tensor, size_t stride_data) {
    Memory & memory = *context_of(buffer);
    memory.device().count([=](loopback_counts & s) { s.gets++, s.get_bytes += n * size; });
    for (size_t i = 0; i < n; i++) {
        memcpy((char *) data + i * stride_data, memory.at(tensor, offset + i * stride_tensor, size), size);
    }
}

static bool buffer_copy(ggml_backend_buffer_t buffer, const ggml_tensor * src, ggml_tensor * dst) {
    const std::shared_ptr<Memory> from = memory_of(buffer_of(src));
    Memory & to = *context_of(buffer);
    if (from == nullptr || to.device().get(LOOPBACK_REFUSE_COPY) != 0) {
        to.device().count([](loopback_counts & s) { s.copies_refused++; });
        return false;
    }
    const size_t size = ggml_nbytes(src);
    count_copy(from->device(), to.device(), size, false);
    memmove(to.at(dst, 0, size), from->at(src, 0, size), size);
    return true;
}

static void buffer_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    Memory & memory = *context_of(buffer);
    memory.device().count([&](loopback_counts & s) { s.clears++, s.clear_bytes += memory.size(); });
    memset(memory.bytes(), value, memory.size());
}

// Pins before 2026-05 have no 2d functions: which of these is chosen is a question of what the struct has.
template <class Interface> static auto give_2d(Interface & i, int) -> decltype((void) i.set_tensor_2d) {
    i.set_tensor_2d = buffer_set_2d;
    i.get_tensor_2d = buffer_get_2d;
}
template <class Interface> static void give_2d(Interface &, long) {
    (void) buffer_set_2d;
    (void) buffer_get_2d;
}

std::shared_ptr<Memory> memory_of(ggml_backend_buffer_t buffer) {
    return buffer != nullptr && buffer->iface.free_buffer == buffer_free ? context_of(buffer) : nullptr;
}

std::shared_ptr<Memory> memory_on(const Device & device, const ggml_tensor * tensor) {
    const ggml_backend_buffer_t buffer = buffer_of(tensor);
    std::shared_ptr<Memory> memory = memory_of(buffer);
    if (memory == nullptr || &memory->device() != &device) {
        GGML_ABORT("%s: tensor %s is not on this device but %s", device.name.c_str(), tensor->name,
            buffer == nullptr ? "nowhere" : ggml_backend_buffer_name(buffer));
    }
    return memory;
}

//
// Buffer types
//

static Device & device_of(ggml_backend_buffer_type_t buft) { return *static_cast<Device *>(buft->context); }

static ggml_backend_buffer_t buft_alloc(ggml_backend_buffer_type_t buft, size_t size) {
    Device & device = device_of(buft);
    if (!device.allocate(size)) {
        GGML_LOG_ERROR("%s: out of memory, %zu bytes cannot be allocated\n", device.name.c_str(), size);
        return nullptr;
    }
    std::shared_ptr<Memory> memory = Memory::make(device, size);
    if (memory == nullptr) {
        device.release(size);
        GGML_LOG_ERROR("%s: the system has no %zu bytes\n", device.name.c_str(), size);
        return nullptr;
    }
    ggml_backend_buffer_i i{};
    i.free_buffer   = buffer_free;
    i.get_base      = buffer_get_base;
    i.memset_tensor = buffer_memset;
    i.set_tensor    = buffer_set;
    i.get_tensor    = buffer_get;
    i.cpy_tensor    = buffer_copy;
    i.clear         = buffer_clear;
    give_2d(i, 0);
    return ggml_backend_buffer_init(buft, i, new std::shared_ptr<Memory>(std::move(memory)), size);
}

ggml_backend_buffer_type make_buffer_type(Device & device) {
    ggml_backend_buffer_type buft{};
    buft.iface.get_name      = [](ggml_backend_buffer_type_t b) { return device_of(b).name.c_str(); };
    buft.iface.alloc_buffer  = buft_alloc;
    buft.iface.get_alignment = [](ggml_backend_buffer_type_t) { return ALIGNMENT; };
    buft.iface.get_max_size  = [](ggml_backend_buffer_type_t b) { return (size_t) device_of(b).get(LOOPBACK_MAX_SIZE); };
    buft.iface.is_host       = [](ggml_backend_buffer_type_t) { return false; };
    buft.device              = &device.dev;
    buft.context             = &device;
    return buft;
}

} // namespace loopback

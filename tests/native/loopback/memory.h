#pragma once

// The bytes of one buffer, and the addresses that ggml gets instead.
//
// ggml's addresses lie in a range that nobody may read or write; the bytes are elsewhere. So whoever takes a device
// address for a host one dies by SIGSEGV at the very instruction, at any time, even while the device computes. That is
// why graphs are computed as a shadow (shadow.h) and not by unprotecting the range for a while: then every thread
// could touch it, and a stream would have to keep it open for as long as it has work.

#include "device.h"

#include <memory>

namespace loopback {

class Memory {
public:
    // NULL when the system has no memory. Everything that holds one keeps the bytes alive, pending operations too.
    static std::shared_ptr<Memory> make(Device & device, size_t size);

    Memory(const Memory &)             = delete;
    Memory & operator=(const Memory &) = delete;
    ~Memory();

    Device & device() const { return device_; }
    size_t   size() const { return size_; }
    char *   base() const { return base_; }   // what ggml sees
    char *   bytes() const { return bytes_; } // what the device sees

    // The bytes [offset, offset + size) of the tensor, which has to lie in this memory.
    char * at(const ggml_tensor * tensor, size_t offset, size_t size) const;

    // A host buffer over the bytes, for the tensors of a shadow.
    ggml_backend_buffer_t host() const { return host_; }

private:
    Memory(Device & device, size_t size, size_t mapped, char * base);

    Device &              device_;
    const size_t          size_;
    const size_t          mapped_; // bytes of each of the two ranges
    char * const          base_;
    char * const          bytes_;
    ggml_backend_buffer_t host_ = nullptr;
};

// The buffer that a tensor lies in. A view has the one of its source; its own may not be set.
inline ggml_backend_buffer_t buffer_of(const ggml_tensor * tensor) {
    return tensor->view_src != nullptr ? tensor->view_src->buffer : tensor->buffer;
}

// NULL when the buffer is not one of a loopback device.
std::shared_ptr<Memory> memory_of(ggml_backend_buffer_t buffer);

// The same of a tensor that has to be on this device; aborts when it is not.
std::shared_ptr<Memory> memory_on(const Device & device, const ggml_tensor * tensor);

} // namespace loopback

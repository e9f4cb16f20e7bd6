#pragma once

// What one device counts and what it was told; the parts of the plug-in as the others see them.

#include "loopback.h"

#include "ggml-backend-impl.h"
#include "ggml-backend.h"

#include <array>
#include <atomic>
#include <mutex>
#include <string>

namespace loopback {

// What another process may look at and change.
struct Shared {
    std::array<std::atomic<uint64_t>, LOOPBACK_SETTINGS> settings;
    loopback_counts                                      counts;
};

class Device {
public:
    Device(int index, Shared & shared);

    const std::string            name;
    const std::string            description;
    ggml_backend_device          dev{};
    ggml_backend_buffer_type     buft{};

    uint64_t get(loopback_setting setting) const { return shared_.settings[setting]; }
    void     set(loopback_setting setting, uint64_t value) { shared_.settings[setting] = value; }
    void     defaults();

    // Counts a fault down; true when it is due.
    bool due(loopback_setting fault);

    template <class Change> void count(Change change) {
        const std::lock_guard<std::mutex> lock(mutex_);
        change(shared_.counts);
    }
    loopback_counts stats();
    void           reset();

    // Takes bytes of the device's memory; false when there are none or a fault is due.
    bool allocate(size_t size);
    void release(size_t size);

private:
    std::mutex mutex_;
    Shared &   shared_;
};

// Counts a copy on both devices, or as one within.
void count_copy(Device & from, Device & to, size_t size, bool async);

// All devices that there can be; they live as long as the process.
Device & device(int index);

inline Device & device_of(ggml_backend_dev_t dev) { return *static_cast<Device *>(dev->context); }

// The device that computes for all of ours; NULL when the CPU's plug-in is not loaded.
ggml_backend_dev_t cpu_device();

ggml_backend_buffer_type make_buffer_type(Device & device);
ggml_backend_device      make_device(Device & device, ggml_backend_reg_t reg);
ggml_backend_reg_t       registry();

ggml_backend_t       backend_init(ggml_backend_dev_t dev, const char * params);
void                 backend_set_n_threads(ggml_backend_t backend, int n_threads);
ggml_backend_event_t event_new(ggml_backend_dev_t dev);
void                 event_free(ggml_backend_dev_t dev, ggml_backend_event_t event);
void                 event_synchronize(ggml_backend_dev_t dev, ggml_backend_event_t event);

} // namespace loopback

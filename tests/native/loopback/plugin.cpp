// What ggml asks a plug-in for, and the C functions of loopback.h.

#include "device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace loopback {

// Read when the plug-in is loaded, so a process can unload it and load it with another number.
static int n_devices = 1;

// Memory of the process, or of the file that other processes map.
static void * new_memory(size_t size) {
    const char * path = getenv("LOOPBACK_SHARED");
    const int    file = path != nullptr ? open(path, O_RDWR | O_CREAT, 0600) : -1;
    if (path != nullptr && (file < 0 || ftruncate(file, (off_t) size) != 0)) {
        GGML_ABORT("LOOPBACK_SHARED=%s cannot be written", path);
    }
    void * memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, file, 0);
    GGML_ASSERT(memory != MAP_FAILED);
    if (file >= 0) {
        close(file);
    }
    return memory;
}

Device & device(int index) {
    static auto * all = [] {
        auto * shared  = static_cast<Shared *>(new_memory(LOOPBACK_MAX_DEVICES * sizeof(Shared)));
        auto * devices = new std::array<Device *, LOOPBACK_MAX_DEVICES>; // never freed: backends may outlive main()
        for (int i = 0; i < LOOPBACK_MAX_DEVICES; i++) {
            (*devices)[i] = new Device(i, *new (shared + i) Shared{});
        }
        return devices;
    }();
    return *all->at((size_t) index);
}

static void * get_proc_address(ggml_backend_reg_t, const char * name) {
    if (strcmp(name, "ggml_backend_set_n_threads") == 0) {
        return reinterpret_cast<void *>(backend_set_n_threads);
    }
    return nullptr;
}

ggml_backend_reg_t registry() {
    static ggml_backend_reg reg = [] {
        ggml_backend_reg_i i{};
        i.get_name         = [](ggml_backend_reg_t) { return "Loopback"; };
        i.get_device_count = [](ggml_backend_reg_t) { return (size_t) n_devices; };
        i.get_device       = [](ggml_backend_reg_t, size_t index) -> ggml_backend_dev_t { return &device((int) index).dev; };
        i.get_proc_address = get_proc_address;
        return ggml_backend_reg{GGML_BACKEND_API_VERSION, i, nullptr};
    }();
    return &reg;
}

} // namespace loopback

extern "C" {

GGML_BACKEND_API ggml_backend_reg_t ggml_backend_init(void) {
    const char * wanted = getenv("LOOPBACK_DEVICES");
    loopback::n_devices = wanted != nullptr ? std::clamp(atoi(wanted), 1, (int) LOOPBACK_MAX_DEVICES) : 1;
    return loopback::registry();
}

int loopback_devices(void) { return loopback::n_devices; }

void loopback_stats(int device, struct loopback_counts * out) { *out = loopback::device(device).stats(); }

void loopback_reset(int device) { loopback::device(device).reset(); }

void loopback_set(int device, int setting, uint64_t value) {
    loopback::device(device).set(static_cast<loopback_setting>(setting), value);
}

uint64_t loopback_get(int device, int setting) {
    return loopback::device(device).get(static_cast<loopback_setting>(setting));
}

void loopback_defaults(int device) { loopback::device(device).defaults(); }

} // extern "C"

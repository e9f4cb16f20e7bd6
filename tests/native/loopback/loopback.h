// The C functions of the loopback device, for tests: what has crossed, and what is to fail.
//
// Loopback is a ggml plug-in that looks like a GPU and computes on the CPU. Its devices are called Loopback0,
// Loopback1 …; LOOPBACK_DEVICES in the environment says how many there are (1 … LOOPBACK_MAX_DEVICES, by default 1)
// and is read whenever the plug-in is loaded. All functions may be called from any thread. LOOPBACK_SHARED names a file
// in which all settings and counts are kept, so that a test can map those of another process: for each device the
// settings, then the counts, 64 bits each.
//
// cffi reads this file from here on, so it holds no macros but these two lines and the guards.

#pragma once

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { LOOPBACK_MAX_DEVICES = 16 };

// Counts of one device. Asynchronous calls are counted when they are made, not when they are carried out.
struct loopback_counts {
    uint64_t sets, set_bytes;             // host to device, at once
    uint64_t gets, get_bytes;             // device to host, at once
    uint64_t async_sets, async_set_bytes; // the same through a stream
    uint64_t async_gets, async_get_bytes;
    uint64_t memsets, memset_bytes;
    uint64_t clears, clear_bytes;
    uint64_t copies, copy_bytes;         // between tensors of this device, at once or through a stream
    uint64_t copies_in, copy_in_bytes;   // from another loopback device
    uint64_t copies_out, copy_out_bytes; // to another loopback device
    uint64_t async_copies;               // those of the three above that went through a stream
    uint64_t copies_refused;             // the caller has to take the way through the host
    uint64_t allocs, alloc_bytes, allocs_failed;
    uint64_t frees, free_bytes;
    uint64_t live, live_bytes; // buffers that exist
    uint64_t peak_bytes;       // most live bytes since the last reset
    uint64_t computes, computes_failed, nodes;
    uint64_t synchronizes;
    uint64_t events, event_frees, event_records, event_waits, event_synchronizes;
    uint64_t dropped; // stream operations that nobody had waited for when their backend was freed
};

enum loopback_mode {
    LOOPBACK_DEFERRED,  // nothing happens until somebody waits for it: a missing wait always gives old bytes
    LOOPBACK_WORKER,    // a thread per backend
    LOOPBACK_IMMEDIATE, // done when the call returns
};

enum loopback_setting {
    LOOPBACK_MODE,          // enum loopback_mode, for backends that are made from now on
    LOOPBACK_MEMORY,        // bytes that the device has; more cannot be allocated
    LOOPBACK_MAX_SIZE,      // bytes of the largest buffer
    LOOPBACK_ALLOC_LIMIT,   // as LOOPBACK_MEMORY, but get_memory does not tell: other programs took the rest
    LOOPBACK_FAIL_ALLOC,    // the n-th allocation from now on fails, the ones after it do not; 0: none
    LOOPBACK_FAIL_COMPUTE,  // the n-th graph from now on returns GGML_STATUS_FAILED; 0: none
    LOOPBACK_REFUSE_COPY,   // 1: cpy_tensor returns false
    LOOPBACK_REFUSE_ASYNC,  // 1: cpy_tensor_async returns false
    LOOPBACK_OFFLOAD_BATCH, // offload_op wants matrix products of at least so many rows; 0: none
    LOOPBACK_FILL,          // byte that new memory holds; 256: zero, and no page of it is touched
    LOOPBACK_SETTINGS
};

int      loopback_devices(void);
void     loopback_stats(int device, struct loopback_counts * out);
void     loopback_reset(int device);                              // counts to 0, but what is live stays
void     loopback_set(int device, int setting, uint64_t value);
uint64_t loopback_get(int device, int setting);
void     loopback_defaults(int device);                           // every setting as it was at first

#ifdef __cplusplus
}
#endif

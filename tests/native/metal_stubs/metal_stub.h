// How a test looks at the stub device of metal_stub.m and makes it fail.
#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum metal_stub_fault {
    METAL_STUB_NO_COMMAND_BUFFER, // the queue gives nil
    METAL_STUB_NO_ENCODER,        // the command buffer gives nil
    METAL_STUB_ERROR,             // the command buffer does nothing and ends with an error
};

// The next command buffer has this fault.
void metal_stub_fail_next(enum metal_stub_fault fault);

// Copies between buffers that have been carried out, and bytes in them.
size_t metal_stub_copies(void);
size_t metal_stub_copied_bytes(void);

// Copies that Metal's documentation forbids: not multiples of 4 bytes, or overlapping. They are carried out.
size_t metal_stub_violations(void);

// Command buffers that were committed, but that the device has not carried out yet.
size_t metal_stub_pending(void);

#ifdef __cplusplus
}
#endif

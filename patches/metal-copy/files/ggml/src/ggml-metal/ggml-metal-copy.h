#pragma once

// Feature "metal-copy" of pyllama. SPDX-License-Identifier: MIT
//
// What the buffers of the Metal back end do when they are asked for a copy (cpy_tensor).

#include "ggml-backend.h"

#ifdef __cplusplus
extern "C" {
#endif

// Copies the bytes of src to dst, which is in buf_dst, and returns when they are there. is_metal says whether a
// buffer is one of this back end. Views are looked up at their owner, so they may lack a buffer and an address.
// False: not copied, the caller goes through the host. So it is for tensors on two devices, of different sizes or
// without memory, and for ranges that the device can't copy; a copy that fails on the device is logged too.
bool ggml_metal_copy_tensor(
        ggml_backend_buffer_t buf_dst, const struct ggml_tensor * src, const struct ggml_tensor * dst,
        bool (*is_metal)(ggml_backend_buffer_t));

#ifdef __cplusplus
}
#endif

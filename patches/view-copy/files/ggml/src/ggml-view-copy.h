#pragma once

// Feature "view-copy" of pyllama. SPDX-License-Identifier: MIT
//
// A ggml view may have no buffer (and no data pointer) of its own: its memory is that of view_src.
// ggml_backend_tensor_get and _set look there, the copy functions do not, and neither does any back end's
// cpy_tensor. ggml_view_copy_args makes the two arguments of a copy complete, so that the code after it,
// and the plug-in that it calls, can read `buffer` and `data` as if the view had been initialized.

#include "ggml.h"
#include "ggml-backend-impl.h"
#include "ggml-impl.h"

class ggml_view_copy_args {
    ggml_tensor   src_stand_in; // only used, and only written, where the given tensor is incomplete
    ggml_tensor   dst_stand_in;
    ggml_tensor * dst_given;

    // Returns the tensor itself when it is complete, else a copy of it with the owner's buffer and address.
    // The tensor is never changed: it may be const, shared between threads, or initialized later on
    // (ggml_backend_view_init refuses a tensor that has a buffer).
    static ggml_tensor * complete(const ggml_tensor * tensor, ggml_tensor * stand_in) {
        const ggml_tensor * owner = tensor->view_src; // always the root: a view of a view is flattened when it is made

        ggml_backend_buffer_t buffer = tensor->buffer;
        if (buffer == NULL && owner != NULL) {
            buffer = owner->buffer;
        }
        GGML_ASSERT(buffer != NULL && "tensor buffer not set");

        void * data = tensor->data;
        if (data == NULL && owner != NULL && owner->data != NULL) { // made before its owner was allocated
            data = (char *) owner->data + tensor->view_offs;
        }
        GGML_ASSERT((data != NULL || ggml_nbytes(tensor) == 0) && "tensor not allocated");

        if (buffer == tensor->buffer && data == tensor->data) {
            return const_cast<ggml_tensor *>(tensor);
        }

#if GGML_BACKEND_API_VERSION >= 2
        // a meta buffer finds the parts of a tensor by the address of the tensor: a stand-in has none
        GGML_ASSERT(!ggml_backend_buffer_is_meta(buffer) && "views on a meta device need ggml_backend_view_init");
#endif

        *stand_in        = *tensor; // keeps view_src and view_offs: Vulkan computes its offset from these two
        stand_in->buffer = buffer;
        stand_in->data   = data;
        return stand_in;
    }

public:
    ggml_tensor * src;
    ggml_tensor * dst;

    ggml_view_copy_args(const ggml_tensor * src_, ggml_tensor * dst_)
        : dst_given(dst_), src(complete(src_, &src_stand_in)), dst(complete(dst_, &dst_stand_in)) {}

    ~ggml_view_copy_args() {
        if (dst == &dst_stand_in) {
            dst_given->extra = dst_stand_in.extra; // a back end may attach it to the destination on first use
        }
    }

    ggml_view_copy_args(const ggml_view_copy_args &) = delete;
    ggml_view_copy_args & operator=(const ggml_view_copy_args &) = delete;

    // No bytes, or a range onto itself (a view of all of a tensor, and the tensor). Not every plug-in may be asked
    // for these: Vulkan forbids an empty copy and one whose ranges overlap.
    bool nothing_to_do() const {
        return ggml_nbytes(src) == 0 || (src->buffer == dst->buffer && src->data == dst->data);
    }
};

// Feature "metal-copy" of pyllama. SPDX-License-Identifier: MIT

#import "ggml-metal-copy.h"

#import "ggml-backend-impl.h"
#import "ggml-impl.h"
#import "ggml-metal-device.h"

#import <Foundation/Foundation.h>

#import <Metal/Metal.h>

// The buffer of a tensor; a view that has none is in its owner's. In this order: of a tensor that comes from elsewhere
// (virtgpu), the owner's buffer is not one of this process.
static ggml_backend_buffer_t buffer_of(const struct ggml_tensor * tensor) {
    if (tensor->buffer != NULL || tensor->view_src == NULL) {
        return tensor->buffer;
    }

    return tensor->view_src->buffer;
}

// The tensor with its address: a view that was made before its owner was allocated has none.
static struct ggml_tensor with_address(const struct ggml_tensor * tensor) {
    struct ggml_tensor res = *tensor;

    const struct ggml_tensor * owner = tensor->view_src;
    if (res.data == NULL && owner != NULL && owner->data != NULL) {
        res.data = (char *) owner->data + tensor->view_offs;
    }

    return res;
}

static bool overlap(const void * a, const void * b, size_t size) {
    return (uintptr_t) a < (uintptr_t) b + size && (uintptr_t) b < (uintptr_t) a + size;
}

// Queued behind all that the device has been given so far, and waited for.
static bool blit(ggml_metal_device_t dev, struct ggml_metal_buffer_id src, struct ggml_metal_buffer_id dst, size_t size) {
    // macOS asks for multiples of 4 bytes here (not on Apple silicon, where buffers are shared anyway)
    if (src.metal == nil || dst.metal == nil || (src.offs | dst.offs | size) % 4 != 0) {
        return false;
    }

    bool done = false;

    @autoreleasepool {
        id<MTLCommandQueue> queue = ggml_metal_device_get_queue(dev);

        // unretained: the buffers outlive the wait
        id<MTLCommandBuffer>      cmd_buf = [queue commandBufferWithUnretainedReferences];
        id<MTLBlitCommandEncoder> encoder = [cmd_buf blitCommandEncoder];

        if (encoder != nil) { // without it the command buffer would be empty, and complete
            [encoder copyFromBuffer:src.metal
                       sourceOffset:src.offs
                           toBuffer:dst.metal
                  destinationOffset:dst.offs
                               size:size];
            [encoder endEncoding];

            [cmd_buf commit];
            [cmd_buf waitUntilCompleted];

            done = [cmd_buf status] == MTLCommandBufferStatusCompleted;
        }

        if (!done) {
            const char * reason = [[[cmd_buf error] localizedDescription] UTF8String];
            GGML_LOG_ERROR("%s: copying %zu bytes failed, going through the host: %s\n", __func__, size,
                    reason ? reason : "no command buffer or encoder");
        }
    }

    return done;
}

bool ggml_metal_copy_tensor(
        ggml_backend_buffer_t buf_dst, const struct ggml_tensor * src, const struct ggml_tensor * dst,
        bool (*is_metal)(ggml_backend_buffer_t)) {
    ggml_backend_buffer_t buf_src = buffer_of(src);

    if (buf_src == NULL || !is_metal(buf_src) || !is_metal(buf_dst)) {
        return false;
    }

    // two devices may be the same hardware (GGML_METAL_DEVICES), but their queues know nothing of each other
    if (buf_src->buft->device != buf_dst->buft->device) {
        return false;
    }

    const size_t size = ggml_nbytes(src);
    if (size != ggml_nbytes(dst)) {
        return false;
    }
    if (size == 0) {
        return true;
    }

    const struct ggml_tensor from = with_address(src);
    const struct ggml_tensor to   = with_address(dst);
    if (from.data == NULL || to.data == NULL) {
        return false;
    }

    ggml_metal_buffer_t mtl_src = buf_src->context;
    ggml_metal_buffer_t mtl_dst = buf_dst->context;

    const bool shared_src = ggml_metal_buffer_is_shared(mtl_src);
    const bool shared_dst = ggml_metal_buffer_is_shared(mtl_dst);

    // like get_tensor and set_tensor of shared buffers: what the device still writes there, the caller has waited for
    if (shared_src && shared_dst) {
        memmove(to.data, from.data, size);
        return true;
    }

    // addresses of private memory are made up, but count through all buffers of a device
    if (!shared_src && !shared_dst && overlap(from.data, to.data, size)) {
        return false;
    }

    return blit(buf_dst->buft->device->context,
            ggml_metal_buffer_get_id(mtl_src, &from), ggml_metal_buffer_get_id(mtl_dst, &to), size);
}

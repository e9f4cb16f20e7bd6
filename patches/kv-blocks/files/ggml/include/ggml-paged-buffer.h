#pragma once

#include "ggml-backend.h"

#ifdef __cplusplus
extern "C" {
#endif

// Host memory that costs nothing until it is written: anonymous pages, which the system hands out at the first write and
// takes back when they are discarded. What was never written, or was discarded, reads as zeros. Tensors begin at a page.

// The buffer type, or null where the system has no such memory (then use ggml_backend_cpu_buffer_type).
GGML_API ggml_backend_buffer_type_t ggml_backend_paged_buffer_type(void);

GGML_API bool ggml_backend_buffer_is_paged(ggml_backend_buffer_t buffer);

// Bytes of a page; 0 where there is no such buffer type.
GGML_API size_t ggml_backend_paged_page_size(void);

// Gives back the pages that lie wholly in [offset, offset + size) of a paged buffer. Returns how many bytes those are; 0
// for another buffer, and when the system refuses: the memory is as it was then.
GGML_API size_t ggml_backend_paged_discard(ggml_backend_buffer_t buffer, size_t offset, size_t size);

#ifdef __cplusplus
}
#endif

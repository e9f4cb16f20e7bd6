#include "llama-memory-report.h"

#include "llama-ext.h"

#include "ggml-backend.h"

size_t llama_memory_report(const llama_context * ctx, llama_memory_report_row * rows, size_t n) {
    const llama_memory_breakdown breakdown = llama_get_memory_breakdown(ctx);

    size_t i = 0;
    for (const auto & [buft, bytes] : breakdown) {
        if (i < n) {
            ggml_backend_dev_t dev = ggml_backend_buft_get_device(buft);

            rows[i] = {
                /*.buffer_type =*/ ggml_backend_buft_name(buft),
                /*.device      =*/ dev ? ggml_backend_dev_name(dev) : nullptr,
                /*.host        =*/ ggml_backend_buft_is_host(buft),
                /*.model       =*/ bytes.model,
                /*.context     =*/ bytes.context,
                /*.compute     =*/ bytes.compute,
            };
        }
        ++i;
    }

    return i;
}

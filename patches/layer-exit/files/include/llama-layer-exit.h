// Contexts that compute only the first layers of their model and go from there to the output: a cheap draft of the model
// for itself. The layers left out take no memory in the context.

#pragma once

#include "llama-context-options.h"

#ifdef __cplusplus
extern "C" {
#endif

// Stop after the first n_layer layers, 1 … all of them; 0: all. Layers that only predict tokens further ahead (MTP) are not
// counted. No context can be made when n_layer is out of range or the model's architecture cannot stop early; the log says why.
LLAMA_API void llama_context_options_set_n_layer(struct llama_context_options * options, int32_t n_layer);

// Layers that a context computes.
LLAMA_API int32_t llama_get_n_layer(const struct llama_context * ctx);

#ifdef __cplusplus
}
#endif

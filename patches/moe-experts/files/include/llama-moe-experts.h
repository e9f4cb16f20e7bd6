// How many experts of a mixture a context takes for each token: fewer than the model does are faster, and less exact.

#pragma once

#include "llama-context-options.h"

#ifdef __cplusplus
extern "C" {
#endif

// Take n experts from the next decode on, of 1 … as many as the model takes; 0: as many as the model does. Returns false, the
// log says why, and changes nothing where n is out of range or the model has no experts.
LLAMA_API bool    llama_set_n_expert_used(      struct llama_context * ctx, int32_t n);

// Experts that the context takes for each token; 0 where the model has none.
LLAMA_API int32_t llama_get_n_expert_used(const struct llama_context * ctx);

// The same from the start: no context can be made with an n that is out of range.
LLAMA_API void    llama_context_options_set_n_expert_used(struct llama_context_options * options, int32_t n);

#ifdef __cplusplus
}
#endif

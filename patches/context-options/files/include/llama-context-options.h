// Options of a context that must be known before its memory is allocated, beside llama_context_params: a struct of the
// public API cannot grow. Features that need such options declare a setter each, in a header of their own.

#pragma once

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

struct llama_context_options; // opaque

// No option is set. Free it with llama_context_options_free, which takes null too.
LLAMA_API struct llama_context_options * llama_context_options_init(void);
LLAMA_API void llama_context_options_free(struct llama_context_options * options);

// As llama_init_from_model, with options, of which the context takes a copy; null: none. Returns null, the log says why, when
// the context cannot be made, also when the model does not allow an option.
LLAMA_API struct llama_context * llama_init_from_model_with(
                   struct llama_model * model,
          struct llama_context_params   params,
   const struct llama_context_options * options);

#ifdef __cplusplus
}
#endif

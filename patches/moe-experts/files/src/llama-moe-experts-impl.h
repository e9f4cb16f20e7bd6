#pragma once

#include <cstdint>

struct llama_context_options;
struct llama_cparams;

// Experts that a graph takes in a layer where the model takes n_model.
int64_t llama_moe_experts_used(const llama_cparams & cparams, int64_t n_model);

// Of a new context: notes how many experts the model takes, in its layer with the most. Throws std::runtime_error when the options
// ask for another number than a context of that model may take.
void llama_moe_experts_init(llama_context_options & options, int64_t n_model);

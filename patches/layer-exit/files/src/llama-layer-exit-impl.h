#pragma once

#include <cstdint>

struct ggml_cgraph;
struct ggml_context;
struct llama_cparams;
struct llama_model;

// In what follows n_layer is the number of layers that the model's own graph goes through, without those for MTP.

// Layers that a context computes.
uint32_t llama_layer_exit_depth(const llama_cparams & cparams, uint32_t n_layer);

// While it lives, memory that this thread creates is for the layers of one context: the classes of memory see only the model.
// Throws std::runtime_error when the model cannot stop where the context wants to. is_draft_head: the context is for MTP.
struct llama_layer_exit_scope {
    llama_layer_exit_scope(const llama_model & model, const llama_cparams & cparams, uint32_t n_layer, bool is_draft_head = false);
    ~llama_layer_exit_scope();

    llama_layer_exit_scope(const llama_layer_exit_scope &) = delete;
    llama_layer_exit_scope & operator=(const llama_layer_exit_scope &) = delete;
};

// Whether the memory being created is not for this layer.
bool llama_layer_exit_skips(uint32_t il);

// Of a graph that is built: throws std::runtime_error when it uses the weights of a layer left out, and keeps the inputs that
// only such layers would have read, since they are set all the same.
void llama_layer_exit_finish(const llama_cparams & cparams, uint32_t n_layer, ggml_context * ctx, ggml_cgraph * gf);

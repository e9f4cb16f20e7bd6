#include "llama-layer-exit.h"

#include "llama-layer-exit-impl.h"

#include "llama-arch.h"
#include "llama-context.h"
#include "llama-cparams.h"
#include "llama-model.h"

#include "ggml.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

static const char * const KEY = "n_layer";

// Architectures whose graphs would be built, and be wrong, or end the process: what a layer does, or the shape of what it reads,
// depends on the number of layers. Those that do not go through their layers one by one are found in their graphs.
static const struct { const char * arch; const char * why; } REFUSED[] = {
    { "gemma3n",      "its per-layer embeddings are shaped for all layers" },
    { "gemma4",       "its per-layer embeddings are shaped for all layers" },
    { "minicpm3",     "it scales each layer by the number of layers" },
    { "minimax-01",   "its decays depend on the number of layers" },
    { "smallthinker", "which layers are rotated depends on the number of layers" },
    { "hrm_text",     "it goes through its layers in cycles" },
};

struct layer_range {
    uint32_t first = std::numeric_limits<uint32_t>::max();
    uint32_t end   = 0;
};

static thread_local layer_range skipped;

uint32_t llama_layer_exit_depth(const llama_cparams & cparams, uint32_t n_layer) {
    const int64_t wanted = cparams.options.get(KEY, 0);
    return wanted > 0 && wanted < n_layer ? (uint32_t) wanted : n_layer;
}

static void check(const llama_model & model, int64_t wanted, uint32_t n_layer, bool is_draft_head) {
    if (wanted < 0 || wanted > n_layer) {
        throw std::runtime_error("the model has " + std::to_string(n_layer) + " layers, it cannot stop after " + std::to_string(wanted));
    }
    if (wanted == 0 || wanted == n_layer) {
        return;
    }
    const std::string arch = llm_arch_name(model.arch);
    if (is_draft_head) {
        throw std::runtime_error("a draft head (MTP) has no layers to leave out");
    }
    if (llama_model_has_encoder(&model) && llama_model_has_decoder(&model)) {
        throw std::runtime_error(arch + " cannot stop after some layers: it has an encoder and a decoder");
    }
    for (const auto & refused : REFUSED) {
        if (arch == refused.arch) {
            throw std::runtime_error(arch + " cannot stop after some layers: " + refused.why);
        }
    }
}

llama_layer_exit_scope::llama_layer_exit_scope(const llama_model & model, const llama_cparams & cparams, uint32_t n_layer, bool is_draft_head) {
    check(model, cparams.options.get(KEY, 0), n_layer, is_draft_head);
    skipped = { llama_layer_exit_depth(cparams, n_layer), n_layer };
}

llama_layer_exit_scope::~llama_layer_exit_scope() {
    skipped = {};
}

bool llama_layer_exit_skips(uint32_t il) {
    return il >= skipped.first && il < skipped.end;
}

// The layer whose weight this is, by its name; -1: of none.
static int64_t layer_of(const ggml_tensor * tensor) {
    const char * found = strstr(tensor->name, "blk.");
    return found ? strtoll(found + strlen("blk."), nullptr, 10) : -1;
}

void llama_layer_exit_finish(const llama_cparams & cparams, uint32_t n_layer, ggml_context * ctx, ggml_cgraph * gf) {
    const uint32_t depth = llama_layer_exit_depth(cparams, n_layer);
    if (depth == n_layer) {
        return;
    }

    int64_t last = -1;
    for (int i = 0; i < ggml_graph_n_nodes(gf); i++) {
        for (const ggml_tensor * src : ggml_graph_node(gf, i)->src) {
            last = std::max(last, src && src->op == GGML_OP_NONE ? layer_of(src) : -1);
        }
    }
    if (last < 0 || last >= depth) {
        throw std::runtime_error("this model cannot stop after some layers: it does not go through them one by one");
    }

    for (ggml_tensor * t = ggml_get_first_tensor(ctx); t; t = ggml_get_next_tensor(ctx, t)) {
        if (t->op == GGML_OP_NONE && (t->flags & GGML_TENSOR_FLAG_INPUT)) {
            ggml_build_forward_expand(gf, t);
        }
    }
}

void llama_context_options_set_n_layer(llama_context_options * options, int32_t n_layer) {
    options->set(KEY, n_layer);
}

int32_t llama_get_n_layer(const llama_context * ctx) {
    const int64_t wanted = ctx->get_cparams().options.get(KEY, 0);
    return wanted > 0 ? (int32_t) wanted : llama_model_n_layer(&ctx->get_model());
}

#include "llama-moe-experts.h"

#include "llama-moe-experts-impl.h"

#include "llama-context.h"
#include "llama-cparams.h"
#include "llama-impl.h"

#include <algorithm>
#include <stdexcept>
#include <string>

static const char * const KEY       = "n_expert_used";
static const char * const KEY_MODEL = "n_expert_used_model";

// Why a context cannot take n experts; empty: it can.
static std::string refusal(int64_t n, int64_t n_model) {
    if (n == 0 || (n > 0 && n <= n_model)) {
        return "";
    }
    return n_model == 0 ? "the model has no experts to choose from"
                        : "it has to be 1 to " + std::to_string(n_model) + ", as many as the model takes, or 0, not " + std::to_string(n);
}

int64_t llama_moe_experts_used(const llama_cparams & cparams, int64_t n_model) {
    const int64_t wanted = cparams.options.get(KEY, 0);
    // all experts run in a warm-up, so that their weights are read
    return wanted == 0 || cparams.warmup ? n_model : std::min(wanted, n_model);
}

void llama_moe_experts_init(llama_context_options & options, int64_t n_model) {
    const std::string why = refusal(options.get(KEY, 0), n_model);
    if (!why.empty()) {
        throw std::runtime_error("number of experts: " + why);
    }
    if (n_model > 0) {
        options.set(KEY_MODEL, n_model);
    }
}

bool llama_set_n_expert_used(llama_context * ctx, int32_t n) {
    const std::string why = refusal(n, ctx->get_cparams().options.get(KEY_MODEL, 0));
    if (!why.empty()) {
        LLAMA_LOG_ERROR("%s: number of experts: %s\n", __func__, why.c_str());
        return false;
    }
    ctx->set_option(KEY, n);
    return true;
}

int32_t llama_get_n_expert_used(const llama_context * ctx) {
    const auto & options = ctx->get_cparams().options;
    const int64_t wanted = options.get(KEY, 0);
    return (int32_t) (wanted > 0 ? wanted : options.get(KEY_MODEL, 0));
}

void llama_context_options_set_n_expert_used(llama_context_options * options, int32_t n) {
    options->set(KEY, n);
}

#include "context-options.h"

#include <map>

static thread_local std::map<const llama_context_params *, common_context_options> by_params;

common_context_options common_context_options_init() {
    return { llama_context_options_init(), llama_context_options_free };
}

common_context_options_scope::common_context_options_scope(pairs options) {
    by_params.insert(options.begin(), options.end());
}

common_context_options_scope::~common_context_options_scope() {
    by_params.clear();
}

const llama_context_options * common_context_options_of(const llama_context_params * params) {
    const auto found = by_params.find(params);
    return found == by_params.end() ? nullptr : found->second.get();
}

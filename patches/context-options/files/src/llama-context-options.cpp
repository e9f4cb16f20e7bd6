#include "llama-context-options-impl.h"

#include <utility>

void llama_context_options::set(const char * key, int64_t value) {
    auto changed = values ? std::make_shared<llama_values>(*values) : std::make_shared<llama_values>();
    (*changed)[key] = value;
    values = std::move(changed);
}

int64_t llama_context_options::get(const char * key, int64_t fallback) const {
    if (!values) {
        return fallback;
    }
    const auto found = values->find(key);
    return found == values->end() ? fallback : found->second;
}

bool llama_context_options::operator==(const llama_context_options & other) const {
    return values == other.values || (values && other.values && *values == *other.values);
}

llama_context_options * llama_context_options_init(void) {
    return new llama_context_options;
}

void llama_context_options_free(llama_context_options * options) {
    delete options;
}

llama_context * llama_init_from_model(llama_model * model, llama_context_params params) {
    return llama_init_from_model_with(model, params, nullptr);
}

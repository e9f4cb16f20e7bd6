// The options of the contexts that common makes: those of the main one are in common_params, those of a draft's in
// common_params_speculative, since a draft is another model. A flag sets them where it wants to be heard.

#pragma once

#include "llama-context-options.h"

#include <initializer_list>
#include <memory>
#include <utility>

using common_context_options = std::shared_ptr<llama_context_options>;

common_context_options common_context_options_init();

// The fitter measures contexts that it makes itself, of parameters that it is given. While a scope lives, it makes them with the
// options that are paired with those parameters (by address). One at a time per thread.
struct common_context_options_scope {
    using pairs = std::initializer_list<std::pair<const llama_context_params *, common_context_options>>;

    explicit common_context_options_scope(pairs options);
    ~common_context_options_scope();

    common_context_options_scope(const common_context_options_scope &) = delete;
    common_context_options_scope & operator=(const common_context_options_scope &) = delete;
};

// The options paired with these parameters, null where there are none.
const llama_context_options * common_context_options_of(const llama_context_params * params);

#pragma once

#include "llama-context-options.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

// Values by key. Each feature keeps its own under its own name, so none needs to know of another. Copies share the values
// until one is set: graphs and their inputs hold a copy each, and are made at every step.
struct llama_context_options {
    void    set(const char * key, int64_t value);
    int64_t get(const char * key, int64_t fallback) const;

    bool operator==(const llama_context_options & other) const;

private:
    using llama_values = std::map<std::string, int64_t, std::less<>>;

    std::shared_ptr<const llama_values> values; // null: none is set
};

#include "pyllama_chat.h"

#include "chat.h"
#include "json-schema-to-grammar.h"
#include "log.h"

#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#ifndef _WIN32
#include <pthread.h>
#endif

// What the pins differ in, by the headers that they have.
#if __has_include("json-schema.h")
#define CHAT_HAS_COMMON_JSON 1  // 2026-10: nlohmann's JSON behind a class
#endif
#if __has_include("peg-parser.h")
#define CHAT_HAS_PEG 1  // 2026-05: parsers are made from the template
#else
#include <minja/chat-template.hpp>
#endif

using json = nlohmann::ordered_json;

// ---- upstream's log: quiet, and without the thread that its own has ----

struct common_log * common_log_main() { return nullptr; }
void common_log_add(struct common_log *, enum ggml_log_level, const char *, ...) {}
#ifdef CHAT_HAS_PEG
int common_log_get_verbosity_thold(void) { return -1; }
#else
int common_log_verbosity_thold = -1;
#endif

namespace {

// ---- errors and stacks ----

char * text_of(const json & value) {
    const std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
    char * copy = static_cast<char *>(std::malloc(text.size() + 1));
    if (copy != nullptr) {
        std::memcpy(copy, text.c_str(), text.size() + 1);
    }
    return copy;
}

char * error_of(const std::string & words) noexcept {
    try {
        return text_of(json{{"error", words.empty() ? std::string("no reason was given") : words}});
    } catch (...) {
        return nullptr;
    }
}

// Call `work`, and return its answer, or what it threw as one.
char * answered(const std::function<char *()> & work) noexcept {
    try {
        return work();
    } catch (const std::exception & error) {
        return error_of(error.what());
    } catch (...) {
        return error_of("an exception of an unknown kind");
    }
}

#ifdef _WIN32
char * on_large_stack(const std::function<char *()> & work) noexcept { return answered(work); }
#else
struct Call {
    const std::function<char *()> * work;
    char * answer;
};

extern "C" void * run_call(void * data) {
    Call * call = static_cast<Call *>(data);
    call->answer = answered(*call->work);
    return nullptr;
}

// Upstream's parsers and std::regex call themselves for each bracket or even each character.
char * on_large_stack(const std::function<char *()> & work) noexcept {
    constexpr size_t STACK = sizeof(void *) >= 8 ? size_t(512) << 20 : size_t(64) << 20;
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) {
        return error_of("no thread could be made");
    }
    Call call = {&work, nullptr};
    pthread_t thread;
    bool made = false;
    // Where address space is limited, a smaller one: then what the Python layer lets through still fits.
    for (size_t size = STACK; !made && size >= (size_t(16) << 20); size /= 2) {
        made = pthread_attr_setstacksize(&attributes, size) == 0 &&
               pthread_create(&thread, &attributes, run_call, &call) == 0;
    }
    pthread_attr_destroy(&attributes);
    if (!made) {
        return error_of("no thread could be made: free memory, or raise the limit of threads");
    }
    pthread_join(thread, nullptr);
    return call.answer;
}
#endif

// Let go of something that is as deep as it was parsed.
void freed(const std::function<void()> & work) noexcept {
    bool done = false;
    std::free(on_large_stack([&]() -> char * {
        done = true;
        work();
        return nullptr;
    }));
    if (!done) {
        std::free(answered([&]() -> char * {
            work();
            return nullptr;
        }));
    }
}

// ---- JSON, as each pin wants it ----

#ifdef CHAT_HAS_COMMON_JSON
common_json native(const json & value) { return common_json::parse(value.dump()); }
#else
const json & native(const json & value) { return value; }
#endif

std::string schema_grammar(const json & schema) {
#ifdef CHAT_HAS_COMMON_JSON
    return json_schema_to_grammar(native(schema), true);
#else
    return json_schema_to_grammar(schema, true);
#endif
}

// ---- templates ----

// Upstream loses the words of what is wrong with a template.
void check_template(const std::string & source) {
#ifdef CHAT_HAS_PEG
    jinja::lexer lexer;
    jinja::parse_from_tokens(lexer.tokenize(source));
#else
    minja::chat_template parsed(source, "", "");
#endif
}

common_chat_templates_inputs inputs_of(const json & request) {
    common_chat_templates_inputs inputs;
    inputs.messages = common_chat_msgs_parse_oaicompat(native(request.at("messages")));
    if (!request.at("tools").empty()) {
        inputs.tools = common_chat_tools_parse_oaicompat(native(request.at("tools")));
    }
    inputs.tool_choice = common_chat_tool_choice_parse_oaicompat(request.at("tool_choice").get<std::string>());
    inputs.parallel_tool_calls = request.at("parallel_tool_calls").get<bool>();
    inputs.json_schema = request.at("json_schema").get<std::string>();
    inputs.grammar = request.at("grammar").get<std::string>();
    inputs.enable_thinking = request.at("enable_thinking").get<bool>();
    inputs.reasoning_format =
        request.at("reasoning").get<bool>() ? COMMON_REASONING_FORMAT_AUTO : COMMON_REASONING_FORMAT_NONE;
    inputs.now = std::chrono::system_clock::time_point(std::chrono::seconds(request.at("now").get<long long>()));
    for (const auto & [name, value] : request.at("kwargs").items()) {
        inputs.chat_template_kwargs[name] = value.dump();
    }
    inputs.add_generation_prompt = true;
    inputs.use_jinja = true;
    return inputs;
}

json answer_of(const common_chat_params & made, const json & request) {
    static const char * const KINDS[] = {"token", "word", "pattern", "pattern_full"};
    json triggers = json::array();
    for (const auto & trigger : made.grammar_triggers) {
        triggers.push_back({{"kind", KINDS[trigger.type]}, {"value", trigger.value}, {"token", trigger.token}});
    }
    json parser = {
        {"format", static_cast<int>(made.format)},
        {"name", common_chat_format_name(made.format)},
        {"reasoning", request.at("reasoning")},
        {"tools", !request.at("tools").empty() && request.at("tool_choice") != "none"},
#ifdef CHAT_HAS_PEG
        {"arena", made.parser},
        {"generation_prompt", made.generation_prompt},
#else
        {"forced_open", made.thinking_forced_open},
#endif
    };
    return {
        {"prompt", made.prompt},
        {"grammar", made.grammar},
        {"lazy", made.grammar_lazy},
        {"triggers", triggers},
        {"preserved_tokens", made.preserved_tokens},
        {"stops", made.additional_stops},
#ifdef CHAT_HAS_PEG
        {"generation_prompt", made.generation_prompt},
#else
        {"generation_prompt", ""},
#endif
        {"parser", parser},
    };
}

// ---- parsers ----

#ifdef CHAT_HAS_PEG
using Syntax = common_chat_parser_params;
#else
using Syntax = common_chat_syntax;
#endif

Syntax syntax_of(const json & request) {
    Syntax syntax;
    const int format = request.at("format").get<int>();
    if (format < 0 || format >= COMMON_CHAT_FORMAT_COUNT) {
        throw std::invalid_argument("there is no chat format " + std::to_string(format));
    }
    syntax.format = static_cast<common_chat_format>(format);
    syntax.reasoning_format =
        request.at("reasoning").get<bool>() ? COMMON_REASONING_FORMAT_AUTO : COMMON_REASONING_FORMAT_NONE;
    syntax.parse_tool_calls = request.at("tools").get<bool>();
#ifdef CHAT_HAS_PEG
    syntax.generation_prompt = request.at("generation_prompt").get<std::string>();
    const std::string arena = request.at("arena").get<std::string>();
    if (!arena.empty()) {
        syntax.parser.load(arena);
    }
#else
    syntax.thinking_forced_open = request.at("forced_open").get<bool>();
#endif
    return syntax;
}

// ---- grammars that wait for a trigger ----

std::string escaped(const std::string & word) {
    std::string text;
    for (const char c : word) {
        if (std::strchr("\\^$.|?*+()[]{}-", c) != nullptr && c != '\0') {
            text += '\\';
        }
        text += c;
    }
    return text;
}

std::string anchored(const std::string & pattern) {
    const bool begins = !pattern.empty() && pattern.front() == '^';
    const bool ends = !pattern.empty() && pattern.back() == '$';
    return (begins ? "" : "^") + pattern + (ends ? "" : "$");
}

struct Triggers {
    std::vector<std::string> patterns;
    std::vector<llama_token> tokens;
};

Triggers triggers_of(const json & request) {
    Triggers made;
    std::string anywhere;
    for (const auto & trigger : request) {
        const std::string kind = trigger.at("kind").get<std::string>();
        const std::string value = trigger.at("value").get<std::string>();
        if (kind == "token") {
            made.tokens.push_back(trigger.at("token").get<llama_token>());
        } else if (kind == "pattern_full") {
#ifdef CHAT_HAS_PEG
            made.patterns.push_back(anchored(value));
#else
            made.patterns.push_back(value);
#endif
        } else {
            const std::string pattern = kind == "word" ? escaped(value) : value;
#ifdef CHAT_HAS_PEG
            made.patterns.push_back(pattern);
#else
            anywhere += (anywhere.empty() ? "" : "|") + pattern;
#endif
        }
    }
    if (!anywhere.empty()) {  // a pattern has to match all of the text here
        made.patterns.push_back("^[\\s\\S]*?(" + anywhere + ")[\\s\\S]*");
    }
    return made;
}

json message_of(const common_chat_msg & message) {
    json calls = json::array();
    for (const auto & call : message.tool_calls) {
        calls.push_back({{"name", call.name}, {"arguments", call.arguments}, {"id", call.id}});
    }
    return {{"content", message.content}, {"reasoning", message.reasoning_content}, {"tool_calls", calls}};
}

}  // namespace

void * pyllama_chat_templates(const struct llama_model * model, const char * source, char ** answer) {
    common_chat_templates * made = nullptr;
    *answer = on_large_stack([&]() -> char * {
        if (model == nullptr && source == nullptr) {
            throw std::invalid_argument("neither a model nor a template");
        }
        const char * text = source != nullptr ? source : llama_model_chat_template(model, nullptr);
        if (text != nullptr) {
            check_template(text);
        }
        made = common_chat_templates_init(model, source != nullptr ? source : "").release();
        return nullptr;
    });
    return made;
}

void pyllama_chat_templates_free(void * templates) {
    freed([&] { common_chat_templates_free(static_cast<common_chat_templates *>(templates)); });
}

char * pyllama_chat_apply(const void * templates, const char * request, size_t size) {
    return on_large_stack([&] {
        const json asked = json::parse(request, request + size);
        const auto made =
            common_chat_templates_apply(static_cast<const common_chat_templates *>(templates), inputs_of(asked));
        return text_of(answer_of(made, asked));
    });
}

void * pyllama_chat_parser(const char * request, size_t size, char ** answer) {
    Syntax * made = nullptr;
    *answer = on_large_stack([&]() -> char * {
        made = new Syntax(syntax_of(json::parse(request, request + size)));
        return nullptr;
    });
    return made;
}

void pyllama_chat_parser_free(void * parser) {
    freed([&] { delete static_cast<Syntax *>(parser); });
}

char * pyllama_chat_parse(const void * parser, const char * text, size_t size, int partial) {
    return on_large_stack([&] {
        const auto & syntax = *static_cast<const Syntax *>(parser);
        return text_of(message_of(common_chat_parse(std::string(text, size), partial != 0, syntax)));
    });
}

char * pyllama_chat_schema(const char * schema, size_t size) {
    return on_large_stack([&] { return text_of(json{{"grammar", schema_grammar(json::parse(schema, schema + size))}}); });
}

void * pyllama_chat_grammar(const void * vocab, const char * request, size_t size, char ** answer) {
    llama_sampler * made = nullptr;
    *answer = on_large_stack([&]() -> char * {
        const json asked = json::parse(request, request + size);
        const Triggers triggers = triggers_of(asked.at("triggers"));
        std::vector<const char *> patterns;
        for (const auto & pattern : triggers.patterns) {
            patterns.push_back(pattern.c_str());
        }
        const std::string grammar = asked.at("grammar").get<std::string>();
        const std::string root = asked.at("root").get<std::string>();
        made = llama_sampler_init_grammar_lazy_patterns(
            static_cast<const llama_vocab *>(vocab), grammar.c_str(), root.c_str(), patterns.data(), patterns.size(),
            triggers.tokens.data(), triggers.tokens.size());
        return nullptr;
    });
    return made;
}

char * pyllama_chat_accept(void * sampler, int token) {
    return on_large_stack([&]() -> char * {
        llama_sampler_accept(static_cast<llama_sampler *>(sampler), token);
        return nullptr;
    });
}

void pyllama_chat_free(char * text) { std::free(text); }

// Upstream's chat templates, parsers of answers and converter of JSON schemas, as C functions with JSON in
// and out: the same at every pin. A library of its own, loaded on first use (see native/chat_library.py).
//
// Each text that is given back is a JSON object, `{"error": "why"}` when something went wrong; free it with
// pyllama_chat_free. NULL means that there was no memory. No exception leaves the library, and everything
// that calls itself runs on a large stack of its own, so deep input is an error and not the end of the
// process. Calls with one object may come from several threads.

#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct llama_model;

#if defined(_WIN32)
#define PYLLAMA_CHAT_API __declspec(dllexport)
#else
#define PYLLAMA_CHAT_API __attribute__((visibility("default")))
#endif

// Parse a template, the model's own for NULL. `model` may be NULL when there is a template: then there is no
// BOS or EOS text. Returns NULL and a text in `answer` on failure.
PYLLAMA_CHAT_API void * pyllama_chat_templates(const struct llama_model * model, const char * source, char ** answer);
PYLLAMA_CHAT_API void pyllama_chat_templates_free(void * templates);

// Apply it. Request: messages, tools, tool_choice, parallel_tool_calls, json_schema, grammar, enable_thinking,
// reasoning, now (seconds since 1970), kwargs. Answer: prompt, generation_prompt, grammar, lazy, triggers,
// preserved_tokens, stops, and what pyllama_chat_parser takes.
PYLLAMA_CHAT_API char * pyllama_chat_apply(const void * templates, const char * request, size_t size);

// Make a parser of answers from `parser` of pyllama_chat_apply's answer.
PYLLAMA_CHAT_API void * pyllama_chat_parser(const char * request, size_t size, char ** answer);
PYLLAMA_CHAT_API void pyllama_chat_parser_free(void * parser);

// Parse an answer, whole or as far as it came: content, reasoning, tool_calls [{name, arguments, id}].
PYLLAMA_CHAT_API char * pyllama_chat_parse(const void * parser, const char * text, size_t size, int partial);

// Convert a JSON schema: `{"grammar": …}`.
PYLLAMA_CHAT_API char * pyllama_chat_schema(const char * schema, size_t size);

// A grammar that applies from one of `triggers` on, [{kind, value, token}] as pyllama_chat_apply gives them.
// Returns NULL and a text in `answer` on failure; free it with llama_sampler_free.
PYLLAMA_CHAT_API void * pyllama_chat_grammar(const void * vocab, const char * request, size_t size, char ** answer);

// llama_sampler_accept, which throws for text that begins like a trigger and then leaves the grammar. Returns
// NULL when all is well.
PYLLAMA_CHAT_API char * pyllama_chat_accept(void * sampler, int token);

PYLLAMA_CHAT_API void pyllama_chat_free(char * text);

#ifdef __cplusplus
}
#endif

// Save what a sequence holds on the device, do other work, restore: does the same text follow, with the same logits?

#pragma once

#include "llama.h"
#include "llama-device-state.h"

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

// The text of up to n tokens that follow `input` in sequence 0, greedily, and the logits of all of them.
static std::pair<std::string, std::vector<float>> device_state_follow(llama_context * ctx, std::vector<llama_token> input, int n) {
    const llama_vocab * vocab   = llama_model_get_vocab(llama_get_model(ctx));
    const int           n_vocab = llama_vocab_n_tokens(vocab);

    std::pair<std::string, std::vector<float>> res;

    for (int i = 0; i < n && llama_decode(ctx, llama_batch_get_one(input.data(), (int32_t) input.size())) == 0; i++) {
        const float * logits = llama_get_logits_ith(ctx, -1);
        res.second.insert(res.second.end(), logits, logits + n_vocab);

        llama_token next = 0;
        for (llama_token id = 1; id < n_vocab; id++) {
            next = logits[id] > logits[next] ? id : next;
        }

        char    piece[256];
        int32_t size = llama_token_to_piece(vocab, next, piece, sizeof(piece), 0, true);
        res.first.append(piece, size > 0 ? size : 0);

        input = { next };
    }

    return res;
}

// Returns false, and says why, when the state that comes back is not the one that was saved.
static bool device_state_check(llama_model * model, const llama_context_params & params, const std::vector<llama_token> & tokens, int n) {
    const llama_state_seq_flags flags = LLAMA_STATE_SEQ_FLAGS_ON_DEVICE;

    const auto fail = [](const char * why) {
        fprintf(stderr, "device state: error: %s\n", why);
        return false;
    };

    llama_context * ctx = llama_init_from_model(model, params);
    if (ctx == nullptr || tokens.size() < 2 || n < 1) {
        llama_free(ctx);
        return fail("no context, or nothing to do in it");
    }

    const std::vector<llama_token> last  = { tokens.back() };
    const std::vector<llama_token> first(tokens.begin(), tokens.end() - 1);
    const std::vector<llama_token> other(tokens.rbegin(), tokens.rend());

    device_state_follow(ctx, first, 1);

    std::vector<uint8_t> blob(llama_state_seq_get_size_ext(ctx, 0, flags));
    const bool saved = llama_state_seq_get_data_ext(ctx, blob.data(), blob.size(), 0, flags) == blob.size();

    const auto expected = device_state_follow(ctx, last, n);

    llama_memory_clear(llama_get_memory(ctx), true);
    device_state_follow(ctx, other, n);

    const bool restored = llama_state_seq_set_data_ext(ctx, blob.data(), blob.size(), 0, flags) == blob.size();
    const auto found    = device_state_follow(ctx, last, n);

    const size_t held  = llama_device_state_size(ctx, 0);
    const size_t freed = llama_device_state_free(ctx, 0);

    llama_free(ctx);

    if (!saved || !restored || expected.second.empty()) {
        return fail("the sequence cannot be saved and restored on the device");
    }
    if (found != expected) {
        return fail("what follows the restored state differs");
    }
    if (held == 0 || freed != held) {
        return fail("the state's memory was not given back");
    }

    printf("\ndevice state: success, %zu bytes stayed on the device: %s\n", held, found.first.c_str());

    return true;
}

#pragma once

// Feature "rpc-errors" of pyllama. SPDX-License-Identifier: MIT
//
// Included by ggml-rpc.cpp behind its two send_rpc_cmd. The client calls ggml_rpc_errors_call in their place: it never
// aborts, and what a failed connection cannot answer is answered here, with values that its callers survive.

#include "ggml-rpc-errors-state.h"

#include <cstdint>
#include <cstring>

// Zeros: no memory, no devices, not copied, not cached, nothing in the tensor. Where zero would be an abort in ggml,
// a value that is right for a buffer that never comes to be (its allocation gets NULL).
static void ggml_rpc_errors_stand_in(enum rpc_cmd cmd, void * output, size_t output_size) {
    uint64_t value = 0;
    switch (cmd) {
        case RPC_CMD_GET_ALIGNMENT:   value = 64;         break;
        case RPC_CMD_GET_MAX_SIZE:    value = SIZE_MAX;   break;
        case RPC_CMD_BUFFER_GET_BASE: value = 1ull << 32; break; // an address: never read, as no RPC buffer is on the host
        default: break;
    }
    if (output_size > 0) {
        memset(output, 0, output_size);
        memcpy(output, &value, output_size < sizeof(value) ? output_size : sizeof(value));
    }
}

// Whether an answer of the right size can be what a server says. ggml aborts, or allocates without end, on these.
static bool ggml_rpc_errors_plausible(enum rpc_cmd cmd, const void * output, size_t output_size) {
    uint64_t value = 0;
    if (output_size > 0) {
        memcpy(&value, output, output_size < sizeof(value) ? output_size : sizeof(value));
    }
    const int number = (int) cmd;
    if (number == 15) { // RPC_CMD_DEVICE_COUNT, which the oldest pin does not have
        return value <= 1024;
    }
    switch (cmd) {
        case RPC_CMD_ALLOC_BUFFER: { // address and size
            uint64_t size;
            memcpy(&size, (const char *) output + sizeof(value), sizeof(size));
            return size <= SIZE_MAX / 4;
        }
        case RPC_CMD_GET_ALIGNMENT:   return value != 0 && (value & (value - 1)) == 0 && value <= (1ull << 30);
        case RPC_CMD_GET_MAX_SIZE:    return value != 0;
        case RPC_CMD_BUFFER_GET_BASE: return value != 0 && value <= SIZE_MAX / 4;
        case RPC_CMD_GET_ALLOC_SIZE:  return value <= SIZE_MAX / 4;
        default:                      return true;
    }
}

// A command without an answer. `state` is NULL where no connection could be made.
template <typename Socket>
static bool ggml_rpc_errors_call(ggml_rpc_errors_state * state, const Socket & sock, enum rpc_cmd cmd,
                                 const void * input, size_t input_size) {
    if (state == nullptr || state->failed()) {
        return false;
    }
    if (!send_rpc_cmd(sock, cmd, input, input_size)) {
        state->fail("the connection was lost");
        return false;
    }
    return true;
}

// A command with an answer of `output_size` bytes; all of `output` is written in any case.
template <typename Socket>
static bool ggml_rpc_errors_call(ggml_rpc_errors_state * state, const Socket & sock, enum rpc_cmd cmd,
                                 const void * input, size_t input_size, void * output, size_t output_size) {
    if (state != nullptr && !state->failed()) {
        if (!send_rpc_cmd(sock, cmd, input, input_size, output, output_size)) {
            state->fail("the connection was lost, or an answer had the wrong size");
        } else if (!ggml_rpc_errors_plausible(cmd, output, output_size)) {
            state->fail("an answer was malformed");
        } else {
            return true;
        }
    }
    ggml_rpc_errors_stand_in(cmd, output, output_size);
    return false;
}

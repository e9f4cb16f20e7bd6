#pragma once

// Feature "rpc-errors" of pyllama. SPDX-License-Identifier: MIT
//
// What is known of one connection to an RPC server, and the system calls that it is made of.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

class ggml_rpc_errors_state {
    std::atomic<bool> is_failed { false };

public:
    std::string endpoint; // set before the connection is used

    ggml_rpc_errors_state() = default;
    ~ggml_rpc_errors_state();

    ggml_rpc_errors_state(const ggml_rpc_errors_state &) = delete;
    ggml_rpc_errors_state & operator=(const ggml_rpc_errors_state &) = delete;

    bool failed() const { return is_failed; }

    // From now on nothing is sent on this connection. The first reason counts: it is logged, the others are its echo.
    void fail(const char * reason);
};

// send() and recv() that go on after a signal (a Ctrl-C that Python is going to look at is no lost connection)
// and that do not end the process by SIGPIPE. On Windows they are send() and recv().
// Returns the number of bytes, or less than 0.
int64_t ggml_rpc_errors_send(uintptr_t fd, const char * data, size_t size);
int64_t ggml_rpc_errors_recv(uintptr_t fd, char * data, size_t size);

// connect() that goes on after a signal and gives up after 10 seconds (on Windows: when the system does). The system is
// asked to find out within about half a minute that the other machine is gone without a word (power, cable).
bool ggml_rpc_errors_connect(uintptr_t fd, const void * address, size_t size);

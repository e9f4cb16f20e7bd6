// Feature "rpc-errors" of pyllama. SPDX-License-Identifier: MIT

#include "ggml-rpc-errors.h"
#include "ggml-rpc-errors-state.h"
#include "ggml-impl.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>

#ifdef _WIN32
#  define WIN32_LEAN_AND_MEAN
#  ifndef NOMINMAX
#     define NOMINMAX
#  endif
#  include <winsock2.h>
#else
#  include <fcntl.h>
#  include <netinet/in.h>
#  include <netinet/tcp.h>
#  include <poll.h>
#  include <sys/socket.h>
#endif

namespace {

struct failures {
    std::mutex mutex;
    std::map<const ggml_rpc_errors_state *, std::string> sentences;
};

// Never destroyed: models may be freed while the process ends.
failures & all_failures() {
    static failures * all = new failures;
    return *all;
}

} // namespace

ggml_rpc_errors_state::~ggml_rpc_errors_state() {
    if (is_failed) {
        failures & all = all_failures();
        std::lock_guard<std::mutex> lock(all.mutex);
        all.sentences.erase(this);
    }
}

void ggml_rpc_errors_state::fail(const char * reason) {
    const std::string sentence = "RPC server " + endpoint + ": " + reason;
    {
        failures & all = all_failures();
        std::lock_guard<std::mutex> lock(all.mutex);
        if (is_failed) {
            return;
        }
        all.sentences[this] = sentence;
        is_failed = true;
    }
    GGML_LOG_ERROR("%s\n", sentence.c_str());
}

size_t ggml_backend_rpc_failure(const char * endpoint, char * sentence, size_t size) {
    failures & all = all_failures();
    std::lock_guard<std::mutex> lock(all.mutex);
    for (const auto & [state, words] : all.sentences) {
        if (endpoint == nullptr || state->endpoint == endpoint) {
            if (size > 0) {
                const size_t n = std::min(size - 1, words.size());
                memcpy(sentence, words.data(), n);
                sentence[n] = '\0';
            }
            return words.size();
        }
    }
    if (size > 0) {
        sentence[0] = '\0';
    }
    return 0;
}

#ifdef _WIN32

int64_t ggml_rpc_errors_send(uintptr_t fd, const char * data, size_t size) {
    return send((SOCKET) fd, data, (int) size, 0);
}

int64_t ggml_rpc_errors_recv(uintptr_t fd, char * data, size_t size) {
    return recv((SOCKET) fd, data, (int) size, 0);
}

bool ggml_rpc_errors_connect(uintptr_t fd, const void * address, size_t size) {
    if (connect((SOCKET) fd, (const struct sockaddr *) address, (int) size) != 0) {
        return false;
    }
    BOOL on = TRUE;
    setsockopt((SOCKET) fd, SOL_SOCKET, SO_KEEPALIVE, (const char *) &on, sizeof(on));
    return true;
}

#else

int64_t ggml_rpc_errors_send(uintptr_t fd, const char * data, size_t size) {
#ifdef MSG_NOSIGNAL
    const int flags = MSG_NOSIGNAL;
#else
    const int flags = 0; // macOS: see SO_NOSIGPIPE below
#endif
    int64_t n;
    do {
        n = send((int) fd, data, size, flags);
    } while (n < 0 && errno == EINTR);
    return n;
}

int64_t ggml_rpc_errors_recv(uintptr_t fd, char * data, size_t size) {
    int64_t n;
    do {
        n = recv((int) fd, data, size, 0);
    } while (n < 0 && errno == EINTR);
    return n;
}

// Whether a connect() that was begun on a non-blocking socket ends well.
static bool becomes_connected(int fd) {
    using clock = std::chrono::steady_clock;
    const auto deadline = clock::now() + std::chrono::seconds(10);
    struct pollfd waiting = { fd, POLLOUT, 0 };
    int ready;
    do {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - clock::now()).count();
        ready = poll(&waiting, 1, (int) std::max<long long>(left, 0));
    } while (ready < 0 && errno == EINTR);
    int error = 0;
    socklen_t size = sizeof(error);
    return ready > 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
}

static void set(uintptr_t fd, int level, int option, int value) {
    setsockopt((int) fd, level, option, &value, sizeof(value)); // where it is refused, the system's default holds
}

bool ggml_rpc_errors_connect(uintptr_t fd, const void * address, size_t size) {
    const int flags = fcntl((int) fd, F_GETFL);
    fcntl((int) fd, F_SETFL, flags | O_NONBLOCK);
    const bool done  = connect((int) fd, (const struct sockaddr *) address, (socklen_t) size) == 0;
    const bool begun = done || errno == EINPROGRESS || errno == EINTR;
    if (!begun || !(done || becomes_connected((int) fd))) {
        return false;
    }
    fcntl((int) fd, F_SETFL, flags);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#ifdef SO_NOSIGPIPE
    set(fd, SOL_SOCKET, SO_NOSIGPIPE, 1);
#endif
#ifdef TCP_KEEPIDLE
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 10); // seconds
#endif
#ifdef TCP_KEEPINTVL
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 5);
#endif
#ifdef TCP_KEEPCNT
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
#endif
    return true;
}

#endif

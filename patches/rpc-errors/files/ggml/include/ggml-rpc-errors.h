#pragma once

// Feature "rpc-errors" of pyllama. SPDX-License-Identifier: MIT

#include "ggml-backend.h"

#ifdef  __cplusplus
extern "C" {
#endif

    // Whether a connection to an RPC server that is in use has failed: it was lost, or it brought a malformed answer.
    //
    // `endpoint` is "host:port" as it was given to the RPC backend; NULL asks for any. Returns 0 when none has failed,
    // else the length of a sentence that says which and why; at most size - 1 bytes of it and a NUL are written to
    // `sentence`, which may be NULL when size is 0. Safe to call from several threads.
    //
    // What was read from such a server since then is zeros, so ask after llama_synchronize and before the results
    // are used: reading has no other way to fail. A failed connection stays failed as long as a model, a context
    // or a buffer of it lives. When these are freed it is forgotten, and the next use of the endpoint connects anew.
    GGML_BACKEND_API size_t ggml_backend_rpc_failure(const char * endpoint, char * sentence, size_t size);

    // Its type, for ggml_backend_reg_get_proc_address(reg, "ggml_backend_rpc_failure") of the backend "RPC".
    typedef size_t (*ggml_backend_rpc_failure_t)(const char * endpoint, char * sentence, size_t size);

#ifdef  __cplusplus
}
#endif

#pragma once

// Feature "self-locating" of pyllama. SPDX-License-Identifier: MIT

#include "ggml.h"

#ifdef  __cplusplus
extern "C" {
#endif

    // If no backend is registered yet, loads the plug-ins that lie in the folder of the ggml library itself (symbolic
    // links resolved), or, where none lies there, in the folder that the build was configured with (GGML_BACKEND_DIR),
    // and the plug-in that the environment variable GGML_BACKEND_PATH names. The current directory and the folder of
    // the executable are never searched. When nothing could be loaded, an error names the folder and the reasons.
    // Returns the number of registered backends. Safe to call from several threads.
    // Without dynamic backends (GGML_BACKEND_DL=OFF) it loads nothing.
    GGML_API size_t ggml_backend_load_beside(void);

#ifdef  __cplusplus
}
#endif

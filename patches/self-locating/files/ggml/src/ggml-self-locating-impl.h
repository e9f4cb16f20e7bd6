#pragma once

// Feature "self-locating" of pyllama, for ggml-backend-reg.cpp only. SPDX-License-Identifier: MIT

#include "ggml-self-locating.h"

#include <filesystem>
#include <vector>

// Where ggml_backend_load_all looks in a build with dynamic backends: beside the ggml library, in GGML_BACKEND_DIR, in
// the folder of the executable. Absolute folders only, each once, never the current directory.
//
// The library's own folder comes first so that this and ggml_backend_load_beside choose the same file: else
// a program that calls both could register the same backend from two places.
std::vector<std::filesystem::path> ggml_self_locating_search_paths(const std::filesystem::path & executable_dir);

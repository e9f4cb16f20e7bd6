// Feature "self-locating" of pyllama. SPDX-License-Identifier: MIT

#include "ggml-self-locating-impl.h"

#include "ggml-backend.h"
#include "ggml-impl.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <string>
#include <system_error>

#ifdef _WIN32
#    define WIN32_LEAN_AND_MEAN
#    ifndef NOMINMAX
#        define NOMINMAX
#    endif
#    include <windows.h>
#else
#    include <dlfcn.h>
#endif

namespace fs = std::filesystem;

#ifdef GGML_BACKEND_DL

// An object of this file, so that its address lies in the ggml library: the address of an exported function may be that of
// the caller's own jump table.
static const char ggml_self_locating_anchor = 0;

static fs::path find_library_dir() {
#ifdef _WIN32
    HMODULE module = NULL;
    if (!GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
                            (LPCWSTR) &ggml_self_locating_anchor, &module)) {
        return {};
    }
    std::wstring name(MAX_PATH, L'\0');
    for (;;) {
        const DWORD len = GetModuleFileNameW(module, &name[0], (DWORD) name.size());
        if (len == 0) {
            return {};
        }
        if (len < name.size()) {
            name.resize(len);
            break;
        }
        name.resize(2*name.size());
    }
    const fs::path library(name);
#else
    Dl_info info;
    if (dladdr(&ggml_self_locating_anchor, &info) == 0 || info.dli_fname == nullptr) {
        return {};
    }
    const fs::path library(info.dli_fname);
#endif
    std::error_code ec;
    const fs::path real = fs::canonical(library, ec);
    if (!ec) {
        return real.parent_path();
    }
    return library.is_absolute() ? library.parent_path() : fs::path();
}

static const fs::path & library_dir() {
    static const fs::path * dir = new fs::path(find_library_dir()); // kept to the very end: exit handlers may load a model too
    return *dir;
}

#ifndef _WIN32
// Looked up while the library is being loaded: found through a relative path (LD_LIBRARY_PATH=lib, dlopen("./libggml.so")), its
// name is only true until the program changes its current directory. Windows gives an absolute name.
[[maybe_unused]] static const bool looked_up_at_load = !library_dir().empty();
#endif

static fs::path configured_dir() {
#ifdef GGML_BACKEND_DIR
    return fs::u8path(GGML_BACKEND_DIR);
#else
    return {};
#endif
}

static std::string utf8(const fs::path & path) {
    const auto text = path.u8string(); // std::u8string from C++20 on
    return std::string(reinterpret_cast<const char *>(text.data()), text.size());
}

static std::vector<fs::path> plugins_in(const fs::path & dir) {
#ifdef _WIN32
    const std::string prefix = "ggml-", extension = ".dll";
#else
    const std::string prefix = "libggml-", extension = ".so"; // on macOS too: plug-ins are modules
#endif
    std::vector<fs::path> found;
    std::error_code ec;
    if (!dir.is_absolute()) {
        return found;
    }
    fs::directory_iterator it(dir, fs::directory_options::skip_permission_denied, ec);
    for (; !ec && it != fs::directory_iterator(); it.increment(ec)) {
        const std::string name = utf8(it->path().filename());
        const bool is_plugin = name.size() > prefix.size() + extension.size() &&
            name.compare(0, prefix.size(), prefix) == 0 &&
            name.compare(name.size() - extension.size(), extension.size(), extension) == 0 &&
            name != prefix + "base" + extension;
        if (is_plugin) {
            found.push_back(it->path());
        }
    }
    std::sort(found.begin(), found.end());
    return found;
}

// Release builds load silently, so nobody has been told yet.
static void explain_failure(const fs::path & dir, const std::vector<fs::path> & plugins) {
    if (dir.empty()) {
        GGML_LOG_ERROR("ggml_backend_load_beside: no backend could be loaded: the folder of the ggml library is unknown\n");
        return;
    }
    if (plugins.empty()) {
        GGML_LOG_ERROR("ggml_backend_load_beside: no backend could be loaded: there is no plug-in (libggml-cpu.so or the like) in %s\n",
            utf8(dir).c_str());
        return;
    }
    GGML_LOG_ERROR("ggml_backend_load_beside: no backend could be loaded from %s\n", utf8(dir).c_str());
    for (const auto & plugin : plugins) {
#ifdef _WIN32
        const char * reason = "it, or a library that it needs, is broken, of another version or not for this system";
#else
        void * handle = dlopen(plugin.c_str(), RTLD_NOW | RTLD_LOCAL);
        const char * reason = handle ? "of another version, or not for this system" : dlerror();
#endif
        GGML_LOG_ERROR("ggml_backend_load_beside:   %s: %s\n", utf8(plugin.filename()).c_str(), reason);
#ifndef _WIN32
        if (handle) {
            dlclose(handle);
        }
#endif
    }
}

size_t ggml_backend_load_beside(void) {
    static std::mutex mutex;
    std::lock_guard<std::mutex> lock(mutex);

    if (ggml_backend_reg_count() > 0) {
        return ggml_backend_reg_count();
    }

    fs::path dir = library_dir();
    std::vector<fs::path> plugins = plugins_in(dir);
    if (plugins.empty()) {
        const std::vector<fs::path> configured = plugins_in(configured_dir());
        if (!configured.empty()) {
            dir     = configured_dir();
            plugins = configured;
        }
    }

    if (!dir.empty()) {
        ggml_backend_load_all_from_path(utf8(dir).c_str()); // ends with GGML_BACKEND_PATH
    } else if (const char * out_of_tree = std::getenv("GGML_BACKEND_PATH")) {
        ggml_backend_load(out_of_tree);
    }

    if (ggml_backend_reg_count() == 0) {
        explain_failure(dir, plugins);
    }
    return ggml_backend_reg_count();
}

std::vector<fs::path> ggml_self_locating_search_paths(const fs::path & executable_dir) {
    std::vector<fs::path> dirs;
    for (const fs::path & dir : { library_dir(), configured_dir(), executable_dir }) {
        std::error_code ec;
        const fs::path real = dir.is_absolute() ? fs::canonical(dir, ec) : fs::path();
        if (!real.empty() && !ec && std::find(dirs.begin(), dirs.end(), real) == dirs.end()) {
            dirs.push_back(real);
        }
    }
    return dirs;
}

#else

size_t ggml_backend_load_beside(void) {
    return ggml_backend_reg_count();
}

#endif // GGML_BACKEND_DL

#ifndef _GNU_SOURCE
#define _GNU_SOURCE  // dladdr
#endif

#include "pyllama_shim.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#ifdef _WIN32
#include <windows.h>

void *pyllama_open(const char *path, char *error, size_t size) {
    HMODULE library = LoadLibraryExA(path, NULL, LOAD_WITH_ALTERED_SEARCH_PATH);
    if (library == NULL) {
        snprintf(error, size, "Windows error %lu", GetLastError());
    }
    return (void *) library;
}

void *pyllama_symbol(void *library, const char *name) {
    return (void *) GetProcAddress((HMODULE) library, name);
}

bool pyllama_origin(void *address, char *path, size_t size) {
    HMODULE module;
    DWORD flags = GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT;
    return GetModuleHandleExA(flags, (LPCSTR) address, &module) != 0 &&
           GetModuleFileNameA(module, path, (DWORD) size) != 0;
}
#else
#include <dlfcn.h>

void *pyllama_open(const char *path, char *error, size_t size) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *words = dlerror();
        snprintf(error, size, "%s", words != NULL ? words : "unknown error");
    }
    return library;
}

void *pyllama_symbol(void *library, const char *name) {
    return dlsym(library, name);
}

bool pyllama_origin(void *address, char *path, size_t size) {
    Dl_info info;
    if (dladdr(address, &info) == 0 || info.dli_fname == NULL) {
        return false;
    }
    snprintf(path, size, "%s", info.dli_fname);
    return true;
}
#endif

const char *pyllama_identity_of(void *library) {
    const char *(*identity)(void) = (const char *(*)(void)) pyllama_symbol(library, "pyllama_identity");
    return identity != NULL ? identity() : NULL;
}

int pyllama_score(void *library) {
    int (*score)(void) = (int (*)(void)) pyllama_symbol(library, "ggml_backend_score");
    return score != NULL ? score() : -1;
}

bool pyllama_abort(void *flag) {
    return *(volatile int *) flag != 0;
}

// ---- log ----

// ggml's levels: 0 none, 1 debug, 2 info, 3 warning, 4 error, 5 continues the last one.
enum { LEVEL_WARN = 3, LEVEL_CONT = 5 };
enum { KEPT = 64, WIDTH = 512 };

struct kept_line {
    size_t number;       // counts from 1; 0 is an empty slot
    const void *thread;
    char text[WIDTH];
};

static struct kept_line ring[KEPT];
static size_t last_number;
static atomic_flag ring_lock = ATOMIC_FLAG_INIT;
static atomic_int threshold = LEVEL_CONT;
static void (*_Atomic sink)(int, const char *);

// The address of a thread's own line buffer also names the thread.
static _Thread_local struct {
    int level;
    size_t used;
    char text[WIDTH];
} line;

static void lock(void) {
    while (atomic_flag_test_and_set_explicit(&ring_lock, memory_order_acquire)) {
    }
}

static void unlock(void) {
    atomic_flag_clear_explicit(&ring_lock, memory_order_release);
}

static void finish_line(void) {
    size_t used = line.used;
    line.used = 0;
    if (used == 0) {
        return;
    }
    line.text[used] = '\0';
    if (line.level >= LEVEL_WARN) {
        lock();
        struct kept_line *kept = &ring[last_number % KEPT];
        kept->number = ++last_number;
        kept->thread = &line;
        memcpy(kept->text, line.text, used + 1);
        unlock();
    }
    void (*to)(int, const char *) = atomic_load(&sink);
    if (to != NULL && line.level >= atomic_load(&threshold)) {
        char text[WIDTH];  // the sink may log itself
        memcpy(text, line.text, used + 1);
        to(line.level, text);
    }
}

void pyllama_log(int level, const char *text, void *user_data) {
    (void) user_data;
    if (level != LEVEL_CONT) {
        finish_line();
        line.level = level;
    }
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '\n') {
            finish_line();
        } else if (line.used < WIDTH - 1) {
            line.text[line.used++] = *c;
        }
    }
}

void pyllama_log_set_threshold(int level) {
    atomic_store(&threshold, level);
}

void pyllama_log_set_sink(void (*to)(int, const char *)) {
    atomic_store(&sink, to);
}

size_t pyllama_log_mark(void) {
    lock();
    size_t mark = last_number;
    unlock();
    return mark;
}

size_t pyllama_log_since(size_t mark, char *out, size_t size) {
    size_t written = 0;
    if (size == 0) {
        return 0;
    }
    finish_line();
    lock();
    size_t first = last_number > KEPT ? last_number - KEPT : 0;
    for (size_t number = (mark > first ? mark : first) + 1; number <= last_number; number++) {
        const struct kept_line *kept = &ring[(number - 1) % KEPT];
        size_t length = strlen(kept->text);
        if (kept->number != number || kept->thread != &line || written + length + 2 > size) {
            continue;
        }
        if (written > 0) {
            out[written++] = '\n';
        }
        memcpy(out + written, kept->text, length);
        written += length;
    }
    unlock();
    out[written] = '\0';
    return written;
}

#define LANES 16  // independent, so that the compiler can keep them in vectors

int pyllama_largest(const float *numbers, int n) {
    float best[LANES];
    for (int k = 0; k < LANES; k++) {
        best[k] = numbers[0];
    }
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int k = 0; k < LANES; k++) {
            best[k] = numbers[i + k] > best[k] ? numbers[i + k] : best[k];
        }
    }
    float largest = best[0];
    for (int k = 1; k < LANES; k++) {
        largest = best[k] > largest ? best[k] : largest;
    }
    for (; i < n; i++) {
        largest = numbers[i] > largest ? numbers[i] : largest;
    }
    for (i = 0; i < n; i++) {
        if (numbers[i] == largest) {
            return i;
        }
    }
    return 0;
}

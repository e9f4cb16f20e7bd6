// What upstream's function tells the processor of AMX's tiles, on any x86-64: the load is a copy of 64 bytes here.
#include <cstdint>
#include <cstdio>
#include <cstring>

enum { TMM0, TMM1, TMM2, TMM3, TMM4, TMM5, TMM6, TMM7 };

struct loaded_t { unsigned char bytes[64]; };
static loaded_t loaded;

// As gcc's own: of what `config` points to, the compiler is told of 8 bytes.
static inline void _tile_loadconfig(const void * config) {
    void * to     = loaded.bytes;
    size_t n      = sizeof(loaded);
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(config), "+c"(n), "=m"(loaded) : "m"(*(const void * const *) config));
}
static inline void _tile_storeconfig(void * config) { std::memset(config, 0, 64); }

#include "tile_config.inc" // out of ggml-cpu/amx/mmq.cpp

int main() {
    ggml_tile_config_init();
    for (const unsigned char byte : loaded.bytes) {
        std::printf("%d ", byte);
    }
}

#pragma once

// What the instruments share: a check that ends the process and says where, and seeded numbers.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

#define CHECK(cond, ...)                                                             \
    do {                                                                             \
        if (!(cond)) {                                                               \
            fprintf(stderr, "CHECK failed, %s:%d: %s: ", __FILE__, __LINE__, #cond); \
            fprintf(stderr, __VA_ARGS__);                                            \
            fputc('\n', stderr);                                                     \
            fflush(stderr);                                                          \
            _Exit(3);                                                                \
        }                                                                            \
    } while (0)

struct Random {
    std::mt19937_64 engine;

    explicit Random(uint64_t seed) : engine(seed) {}

    // least <= result <= most
    size_t pick(size_t least, size_t most) { return least + engine() % (most - least + 1); }
    bool   once_in(size_t n) { return pick(1, n) == 1; }
};

#pragma once

#include "ggml.h"

#include <cstddef>
#include <cstdint>

namespace ggml::cpu::repack {

// Interleaves the rows of `t` out of `data`, as upstream's repack<…>: reads type, ne and data of the tensor, and
// nothing else. Returns 0, or another number when the tensor has a shape that it does not take.
using repack_fn = int (*)(ggml_tensor * t, const void * data, size_t data_size);

// The same as fn(t, data, data_size), byte for byte, with the rows divided among threads. `n_interleaved` is how many
// rows fn interleaves. Uses as many threads as this one has CPUs to run on, or as GGML_REPACK_THREADS says, and no
// more than the tensor is worth; those that cannot be started are done without.
int repack_in_parallel(repack_fn fn, int64_t n_interleaved, ggml_tensor * t, const void * data, size_t data_size);

// For tests: how many threads are used for so many bytes.
int repack_threads(size_t data_size);

} // namespace ggml::cpu::repack

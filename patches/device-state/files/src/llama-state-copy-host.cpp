#include "llama-state-ways.h"

#include "ggml-backend.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <thread>

#if defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#define LLAMA_STATE_STREAMS 1
#endif

bool llama_state_all_on_host(const std::vector<llama_state_block> & blocks, const llama_state_memory & memory) {
    return std::all_of(blocks.begin(), blocks.end(), [&](const llama_state_block & block) {
        return ggml_backend_buffer_is_host(llama_state_buffer_of(block.tensor)) && ggml_backend_buffer_is_host(memory.chunk(block.packed)->buffer);
    });
}

// Rows to copy in host memory: what a thread takes at a time.
struct host_rows {
    char *       dst;
    const char * src;
    size_t       dst_pitch;
    size_t       src_pitch;
    size_t       width;
    size_t       count;
};

static constexpr size_t PIECE_BYTES   = 256*1024;
static constexpr size_t THREADS_BYTES = 1024*1024; // less is done before a thread has started
static constexpr size_t MAX_THREADS   = 4;         // more do not make memory faster

// From here on the bytes would push each other out of the caches: they are written past them, which saves reading every
// line before it is overwritten.
static constexpr size_t STREAM_BYTES = 32*1024*1024;

static constexpr size_t LINE_BYTES = 64;

#ifdef LLAMA_STATE_STREAMS
// Only whole lines are written past the caches: a part of one costs more than it saves.
static void copy_row_past_caches(char * dst, const char * src, size_t size) {
    const size_t head = std::min<size_t>(-(uintptr_t) dst % LINE_BYTES, size);

    memcpy(dst, src, head);

    const char * end = src + head + (size - head)/LINE_BYTES*LINE_BYTES;

    dst += head;
    for (src += head; src < end; src += LINE_BYTES, dst += LINE_BYTES) {
        const __m128i * from = (const __m128i *) src;
        /* */ __m128i * to   = (__m128i *) dst;

        const __m128i a = _mm_loadu_si128(from + 0);
        const __m128i b = _mm_loadu_si128(from + 1);
        const __m128i c = _mm_loadu_si128(from + 2);
        const __m128i d = _mm_loadu_si128(from + 3);

        _mm_stream_si128(to + 0, a);
        _mm_stream_si128(to + 1, b);
        _mm_stream_si128(to + 2, c);
        _mm_stream_si128(to + 3, d);
    }

    memcpy(dst, src, (size - head) % LINE_BYTES);
}
#endif

static void copy_rows(const host_rows & rows, bool past_caches) {
#ifdef LLAMA_STATE_STREAMS
    if (past_caches && rows.width >= 8*LINE_BYTES) {
        for (size_t i = 0; i < rows.count; ++i) {
            copy_row_past_caches(rows.dst + i*rows.dst_pitch, rows.src + i*rows.src_pitch, rows.width);
        }
        _mm_sfence(); // such writes are not ordered by themselves
        return;
    }
#else
    (void) past_caches;
#endif

    for (size_t i = 0; i < rows.count; ++i) {
        memcpy(rows.dst + i*rows.dst_pitch, rows.src + i*rows.src_pitch, rows.width);
    }
}

// Pieces of about the same size, in rows, or parts of a row that is larger.
static std::vector<host_rows> pieces_on_host(const std::vector<llama_state_block> & blocks, const llama_state_memory & memory, llama_state_direction direction) {
    std::vector<host_rows> pieces;

    for (const auto & block : blocks) {
        const auto [src, dst] = llama_state_ends_of(block, memory, direction);

        const size_t width = std::min(block.width, PIECE_BYTES);
        const size_t count = std::max<size_t>(PIECE_BYTES/width, 1);

        for (size_t x = 0; x < block.width; x += width) {
            for (size_t i = 0; i < block.count; i += count) {
                pieces.push_back({
                    dst.data + i*dst.pitch + x, src.data + i*src.pitch + x, dst.pitch, src.pitch,
                    std::min(width, block.width - x), std::min(count, block.count - i),
                });
            }
        }
    }

    return pieces;
}

void llama_state_copy_on_host(const std::vector<llama_state_block> & blocks, const llama_state_memory & memory, llama_state_direction direction) {
    const std::vector<host_rows> pieces = pieces_on_host(blocks, memory, direction);

    size_t bytes = 0;
    for (const auto & rows : pieces) {
        bytes += rows.width*rows.count;
    }

    std::atomic<size_t> next = 0;

    // Whoever is free takes the next piece, so a thread that gets no processor holds up nobody. A graph on the CPU's own
    // threads waits for all of them after every node: on busy cores that took a hundred times as long.
    const auto work = [&]() {
        for (size_t i = next++; i < pieces.size(); i = next++) {
            copy_rows(pieces[i], bytes >= STREAM_BYTES);
        }
    };

    std::vector<std::thread> threads;

    if (bytes >= THREADS_BYTES) {
        const size_t n_threads = std::min<size_t>({ MAX_THREADS, std::thread::hardware_concurrency(), pieces.size() });
        threads.reserve(n_threads);
        try {
            while (threads.size() + 1 < n_threads) {
                threads.emplace_back(work);
            }
        } catch (const std::exception &) {
            // fewer will do
        }
    }

    work();

    for (auto & thread : threads) {
        thread.join();
    }
}

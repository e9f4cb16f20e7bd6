// Feature kv-blocks: which pages the cells of a cache take. Blocks of cells are committed and given back at random, as a cache
// does it; what is counted has to be what the system says, what is in use has to keep its bytes, and what nobody uses has to
// be gone. Linked with ggml, and with the feature's own llama-kv-pages.cpp.
//
//   walk SEED ROUNDS
//
// Prints "ok" and a number of what was done; exit code 3 and the place of the failure otherwise.

#include "resident.h"

#include "ggml-cpp.h"
#include "ggml-paged-buffer.h"
#include "llama-kv-pages.h"

#include <algorithm>

struct Shape {
    uint32_t n_stream, n_cells, block;
    int      n_layers;
    int64_t  n_embd;
    ggml_type type;
    bool     transposed; // V
    int      n_fixed;    // layers whose memory is not paged
};

struct Tensor {
    ggml_tensor * tensor;
    bool transposed;
};

struct Stretch {
    char * begin;
    size_t size;
};

// Tensors as llama_kv_cache makes them, and who is in which block.
struct Cache {
    Shape shape;
    ggml_context_ptr context, context_fixed;
    ggml_backend_buffer_ptr buffer, buffer_fixed;
    std::vector<Tensor> tensors, fixed;
    llama_kv_pages pages;
    std::vector<std::vector<bool>> taken; // [stream][block]
    std::vector<uint8_t> shadow;          // of the paged buffer

    explicit Cache(const Shape & shape) : shape(shape) {
        make(context, buffer, tensors, shape.n_layers - shape.n_fixed, ggml_backend_paged_buffer_type());
        make(context_fixed, buffer_fixed, fixed, shape.n_fixed, ggml_backend_cpu_buffer_type());
        taken.assign(shape.n_stream, std::vector<bool>(n_blocks()));
        shadow.resize(buffer ? ggml_backend_buffer_get_size(buffer.get()) : 0);
    }

    void make(ggml_context_ptr & owner, ggml_backend_buffer_ptr & memory, std::vector<Tensor> & list, int n, ggml_backend_buffer_type_t buft) {
        if (n == 0) {
            return;
        }
        owner.reset(ggml_init({2*(size_t) n*ggml_tensor_overhead(), nullptr, true}));
        for (int i = 0; i < 2*n; i++) {
            ggml_tensor * tensor = ggml_new_tensor_3d(owner.get(), shape.type, shape.n_embd, shape.n_cells, shape.n_stream);
            list.push_back({tensor, i % 2 == 1 && shape.transposed});
        }
        memory.reset(ggml_backend_alloc_ctx_tensors_from_buft(owner.get(), buft));
        CHECK(memory, "no memory");
        for (const Tensor & one : list) {
            pages.add(one.tensor, one.transposed, shape.n_stream, shape.n_cells);
        }
    }

    uint32_t n_blocks() const { return (shape.n_cells + shape.block - 1)/shape.block; }
    uint32_t cells_of(uint32_t block) const { return std::min(shape.block, shape.n_cells - block*shape.block); }
    char *   base() const { return (char *) ggml_backend_buffer_get_base(buffer.get()); }

    template <typename F>
    static void each(const std::vector<Tensor> & list, const Shape & shape, uint32_t stream, uint32_t cell, F && visit) {
        for (const auto & [tensor, transposed] : list) {
            char * begin = (char *) tensor->data + stream*tensor->nb[2];
            if (!transposed) {
                visit(Stretch{begin + cell*tensor->nb[1], tensor->nb[1]});
                continue;
            }
            for (int64_t row = 0; row < shape.n_embd; row++) {
                visit(Stretch{begin + ((size_t) row*shape.n_cells + cell)*tensor->nb[0], tensor->nb[0]});
            }
        }
    }

    template <typename F> void each_cell(uint32_t block, F && visit) const {
        for (uint32_t i = 0; i < cells_of(block); i++) {
            visit(block*shape.block + i);
        }
    }

    void write(Random & random, uint32_t stream, uint32_t block) {
        each_cell(block, [&](uint32_t cell) {
            each(tensors, shape, stream, cell, [&](Stretch stretch) {
                for (size_t i = 0; i < stretch.size; i++) {
                    const uint8_t value = (uint8_t) random.engine();
                    stretch.begin[i] = (char) value;
                    shadow[(size_t) (stretch.begin + i - base())] = value;
                }
            });
            each(fixed, shape, stream, cell, [&](Stretch stretch) { memset(stretch.begin, (int) random.pick(0, 255), stretch.size); });
        });
    }

    void commit(Random & random, uint32_t stream, uint32_t block) {
        pages.commit(stream, block*shape.block, cells_of(block));
        taken[stream][block] = true;
        write(random, stream, block);
    }

    // as a K-shift does it: zeros to a cell that nobody has
    void scribble(Random & random) {
        const uint32_t stream = (uint32_t) random.pick(0, shape.n_stream - 1);
        const uint32_t block  = (uint32_t) random.pick(0, n_blocks() - 1);
        if (!taken[stream][block]) {
            each(tensors, shape, stream, block*shape.block, [&](Stretch stretch) {
                memset(stretch.begin, 0, stretch.size);
                memset(&shadow[(size_t) (stretch.begin - base())], 0, stretch.size);
            });
        }
    }

    // neighbours in use, in one go
    void give_back(uint32_t stream, uint32_t begin, uint32_t end) {
        std::fill(taken[stream].begin() + begin, taken[stream].begin() + end, false);
        pages.discard(stream, begin*shape.block, std::min(end*shape.block, shape.n_cells) - begin*shape.block);
    }

    void check(const char * what) const {
        if (!buffer) {
            CHECK(pages.committed() == pages.reserved(), "%s: memory that is not paged is all there", what);
            return;
        }
        const size_t page = page_size();
        const std::vector<bool> there = resident(base(), shadow.size());
        std::vector<bool> used(there.size()); // a cell in use lies there
        for (uint32_t stream = 0; stream < shape.n_stream; stream++) {
            for (uint32_t block = 0; block < n_blocks(); block++) {
                if (!taken[stream][block]) {
                    continue;
                }
                each_cell(block, [&](uint32_t cell) {
                    each(tensors, shape, stream, cell, [&](Stretch stretch) {
                        const size_t at = (size_t) (stretch.begin - base());
                        CHECK(memcmp(stretch.begin, &shadow[at], stretch.size) == 0, "%s: cell %u of stream %u lost its bytes", what, cell, stream);
                        for (size_t i = at/page; i <= (at + stretch.size - 1)/page; i++) {
                            used[i] = true;
                        }
                    });
                });
            }
        }
        const size_t n_there = (size_t) std::count(there.begin(), there.end(), true);
        const size_t n_fixed = buffer_fixed ? fixed.size()*ggml_nbytes(fixed[0].tensor) : 0;
        CHECK(pages.committed() == n_there*page + n_fixed, "%s: %zu bytes are counted, %zu are there", what, pages.committed(), n_there*page + n_fixed);
        CHECK(pages.committed(buffer.get()) == n_there*page, "%s: of the buffer", what);
        for (size_t i = 0; i < used.size(); i++) {
            CHECK(used[i] == there[i], "%s: page %zu of %zu is %s", what, i, used.size(), used[i] ? "not there, but in use" : "there, but nobody uses it");
        }
    }
};

static Shape any_shape(Random & random) {
    static const ggml_type types[] = {GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0};
    Shape res;
    res.transposed = random.once_in(2);
    res.type       = types[random.pick(0, res.transposed ? 1 : 3)];
    res.n_stream   = (uint32_t) random.pick(1, 4);
    res.n_cells    = 32*(uint32_t) random.pick(1, random.once_in(4) ? 160 : 16);
    res.block      = 8u << random.pick(0, 5);
    res.n_layers   = (int) random.pick(1, 3);
    res.n_fixed    = random.once_in(2) ? (int) random.pick(1, (size_t) res.n_layers) : 0;
    res.n_embd     = 32*(int64_t) random.pick(1, res.n_cells > 512 ? 2 : 12);
    return res;
}

static size_t run_walk(uint64_t seed, size_t rounds) {
    Random random(seed);
    for (size_t round = 0; round < rounds; round++) {
        Cache cache(any_shape(random));
        char what[200];
        const Shape & s = cache.shape;
        snprintf(what, sizeof(what), "seed %llu, round %zu (%u streams, %u cells, blocks of %u, %d layers, %lld of %s%s)", (unsigned long long) seed, round,
                s.n_stream, s.n_cells, s.block, s.n_layers, (long long) s.n_embd, ggml_type_name(s.type), s.transposed ? ", transposed" : "");
        size_t per_cell = 0, all = 0;
        for (const auto & list : {cache.tensors, cache.fixed}) {
            for (const Tensor & one : list) {
                per_cell += one.tensor->nb[1];
                all      += ggml_nbytes(one.tensor);
            }
        }
        CHECK(cache.pages.bytes_per_cell() == per_cell && cache.pages.reserved() == all, "%s: sizes", what);
        CHECK(cache.pages.paged() == (cache.buffer != nullptr), "%s: paged()", what);
        cache.check(what);
        for (int step = 0; step < 25; step++) {
            const uint32_t stream = (uint32_t) random.pick(0, s.n_stream - 1);
            const uint32_t block  = (uint32_t) random.pick(0, cache.n_blocks() - 1);
            const uint32_t n      = random.once_in(2) ? 1 : (uint32_t) random.pick(1, cache.n_blocks());
            const bool     fill   = random.once_in(2);
            const uint32_t end = std::min(cache.n_blocks(), block + n);
            for (uint32_t b = block; b < end; b++) {
                if (fill && !cache.taken[stream][b]) {
                    cache.commit(random, stream, b);
                }
                uint32_t last = b;
                while (!fill && last < end && cache.taken[stream][last] && (last == b || !random.once_in(4))) {
                    last++;
                }
                if (last > b) {
                    cache.give_back(stream, b, last);
                }
            }
            if (random.once_in(8)) {
                cache.scribble(random);
                cache.pages.sweep();
            }
            cache.check(what);
        }
        // one stream in another's place
        if (s.n_stream > 1) {
            for (uint32_t b = 0; b < cache.n_blocks(); b++) {
                for (const uint32_t stream : {0u, s.n_stream - 1}) {
                    if (!cache.taken[stream][b]) {
                        cache.commit(random, stream, b);
                    }
                }
            }
            const uint32_t cell = (uint32_t) random.pick(0, s.n_cells - 1), n = (uint32_t) random.pick(1, s.n_cells - cell);
            CHECK(cache.pages.copy(0, s.n_stream - 1, cell, n), "%s: copy", what);
            for (const auto & list : {cache.tensors, cache.fixed}) {
                std::vector<char> from;
                for (uint32_t c = cell; c < cell + n; c++) {
                    Cache::each(list, s, 0, c, [&](Stretch stretch) { from.insert(from.end(), stretch.begin, stretch.begin + stretch.size); });
                }
                size_t at = 0;
                for (uint32_t c = cell; c < cell + n; c++) {
                    Cache::each(list, s, s.n_stream - 1, c, [&](Stretch stretch) {
                        CHECK(memcmp(stretch.begin, &from[at], stretch.size) == 0, "%s: cell %u is not copied", what, c);
                        at += stretch.size;
                        if (cache.buffer && stretch.begin >= cache.base() && stretch.begin < cache.base() + cache.shadow.size()) {
                            memcpy(&cache.shadow[(size_t) (stretch.begin - cache.base())], stretch.begin, stretch.size);
                        }
                    });
                }
            }
            cache.check(what); // and no other cell is changed
        }
        for (uint32_t stream = 0; stream < s.n_stream; stream++) {
            for (uint32_t b = 0; b < cache.n_blocks(); b++) {
                if (cache.taken[stream][b]) {
                    cache.give_back(stream, b, b + 1);
                }
            }
        }
        cache.check(what);
    }
    return rounds;
}

int main(int argc, char ** argv) {
    const std::string command = argc > 1 ? argv[1] : "";
    if (command != "walk" || argc != 4) {
        fprintf(stderr, "usage: %s walk SEED ROUNDS\n", argv[0]);
        return 2;
    }
    printf("ok %zu\n", run_walk(strtoull(argv[2], nullptr, 10), strtoull(argv[3], nullptr, 10)));
    return 0;
}

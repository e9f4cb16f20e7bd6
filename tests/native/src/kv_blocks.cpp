// Feature kv-blocks, the pool and the table alone: each behaviour by name, and long random walks against a reference that
// only knows sets and maps. Linked with the feature's llama-kv-block-pool.cpp, and with nothing of llama.cpp.
//
//   pool | table | walk SEED STEPS
//
// Prints "ok" and a number of what was done; exit code 3 and the place of the failure otherwise.

#include "block_reference.h"
#include "check.h"

#include <string>

using Blocks = std::vector<uint32_t>;

static const uint32_t NONE = UINT32_MAX;

//
// the pool
//

static void check_pool(const llama_block_pool & pool, const Refs & expected, uint32_t peak, const char * what) {
    const auto stats = pool.get_stats();
    const Summary sum = summary(expected);
    for (uint32_t block = 0; block < expected.size(); block++) {
        CHECK(pool.references(block) == expected[block], "%s: block %u", what, block);
        CHECK(pool.is_free(block) == (expected[block] == 0), "%s: block %u", what, block);
    }
    for (const uint32_t block : {(uint32_t) expected.size(), (uint32_t) expected.size() + 1, NONE}) {
        CHECK(!pool.is_free(block) && pool.references(block) == 0, "%s: no such block: %u", what, block);
    }
    CHECK(pool.size() == expected.size() && stats.total == expected.size(), "%s: %u", what, stats.total);
    CHECK(stats.used == sum.used, "%s: %u used", what, stats.used);
    CHECK(stats.shared == sum.shared, "%s: %u shared", what, stats.shared);
    CHECK(stats.references == sum.references, "%s: %llu references", what, (unsigned long long) stats.references);
    CHECK(stats.free_runs == sum.free_runs, "%s: %u free runs", what, stats.free_runs);
    CHECK(stats.largest_free_run == sum.largest_free_run, "%s: largest free run %u", what, stats.largest_free_run);
    CHECK(stats.peak == peak, "%s: peak %u, not %u", what, stats.peak, peak);
    const double free = (double) (expected.size() - sum.used);
    CHECK(stats.fragmentation() == (free == 0 ? 0 : 1 - sum.largest_free_run/free), "%s: %f", what, stats.fragmentation());
}

static size_t run_pool() {
    {
        llama_block_pool pool(5);
        check_pool(pool, {0, 0, 0, 0, 0}, 0, "init");
        CHECK(pool.allocate() == 0u, "allocate single");
        check_pool(pool, {1, 0, 0, 0, 0}, 1, "allocate single");
        for (uint32_t block = 1; block < 5; block++) {
            CHECK(pool.allocate() == block, "allocate all");
        }
        check_pool(pool, {1, 1, 1, 1, 1}, 5, "allocate all");
        CHECK(!pool.allocate() && !pool.allocate(), "allocate from a full pool");
        CHECK(pool.release(3) && pool.release(1), "deallocate");
        check_pool(pool, {1, 0, 1, 0, 1}, 5, "deallocate");
        CHECK(!pool.release(3) && !pool.release(1), "double free");
        CHECK(!pool.release(5) && !pool.release(6) && !pool.release(NONE), "free of no block");
        CHECK(!pool.share(3) && !pool.share(5) && !pool.share(NONE), "share of a free block, and of none");
        CHECK(!pool.claim(0) && !pool.claim(5) && !pool.claim(NONE), "claim of a taken block, and of none");
        check_pool(pool, {1, 0, 1, 0, 1}, 5, "after what was refused");
        CHECK(pool.allocate() == 1u && pool.allocate() == 3u && !pool.allocate(), "the lowest free block first");
        CHECK(pool.release(4) && pool.claim(4) && pool.release(2) && pool.allocate() == 2u, "claim");
        check_pool(pool, {1, 1, 1, 1, 1}, 5, "claim");
    }
    {
        llama_block_pool pool(6);
        CHECK(pool.allocate_many(7).empty(), "batch of more than all");
        CHECK(pool.allocate_many(NONE).empty() && pool.allocate_many(0).empty(), "batch of too many, and of none");
        check_pool(pool, {0, 0, 0, 0, 0, 0}, 0, "batch: nothing taken");
        CHECK(pool.claim(1), "claim");
        CHECK((pool.allocate_many(3) == Blocks{0, 2, 3}), "batch around a taken block");
        CHECK(pool.allocate_many(3).empty(), "batch of one more than there are");
        check_pool(pool, {1, 1, 1, 1, 0, 0}, 4, "batch: all or none");
        CHECK((pool.allocate_many(2) == Blocks{4, 5}), "batch of the rest");
    }
    {
        llama_block_pool pool(4);
        CHECK(pool.allocate() == 0u && pool.share(0) && pool.share(0), "reference counting");
        check_pool(pool, {3, 0, 0, 0}, 1, "three references");
        CHECK(pool.release(0) && pool.release(0), "reference counting");
        check_pool(pool, {1, 0, 0, 0}, 1, "one reference left");
        CHECK(pool.release(0) && !pool.release(0) && !pool.share(0), "the last one frees");
        CHECK(pool.claim(3) && pool.claim(1) && pool.share(3), "stats");
        check_pool(pool, {0, 1, 0, 2}, 2, "stats: two free runs of one");
        CHECK(pool.get_stats().fragmentation() == 0.5, "half of the free blocks are outside the largest run");
        pool.clear();
        check_pool(pool, {0, 0, 0, 0}, 2, "clear: the peak stays");
        CHECK(!pool.release(1) && !pool.release(3), "stale after clear");
        CHECK((pool.allocate_many(4) == Blocks{0, 1, 2, 3}), "all again after clear");
    }
    {
        llama_block_pool pool(0);
        CHECK(!pool.allocate() && !pool.claim(0) && !pool.release(0) && !pool.share(0), "no blocks at all");
        pool.clear();
        check_pool(pool, {}, 0, "no blocks at all");
    }
    CHECK(llama_blocks_for(0, 32) == 0 && llama_blocks_for(1, 32) == 1 && llama_blocks_for(32, 32) == 1, "blocks for tokens");
    CHECK(llama_blocks_for(33, 32) == 2 && llama_blocks_for(64, 32) == 2 && llama_blocks_for(7, 1) == 7, "blocks for tokens");
    CHECK(llama_blocks_for(UINT32_MAX, 8) == 1u << 29 && llama_blocks_for(UINT32_MAX, 1) == UINT32_MAX, "blocks for very many tokens");
    return 4;
}

//
// the table
//

static void check_table(const llama_block_table & table, const std::map<int32_t, Blocks> & expected, const char * what) {
    std::vector<int32_t> sequences;
    uint64_t mappings = 0;
    for (const auto & [seq, blocks] : expected) {
        sequences.push_back(seq);
        mappings += blocks.size();
        CHECK(table.blocks(seq) == blocks, "%s: sequence %d", what, seq);
    }
    CHECK(table.sequences() == sequences, "%s: %zu sequences", what, table.sequences().size());
    CHECK(table.mappings() == mappings, "%s: %llu mappings", what, (unsigned long long) table.mappings());
    CHECK(table.blocks(4711).empty() && table.blocks(INT32_MIN).empty(), "%s: a sequence that there is not", what);
}

static size_t run_table() {
    {
        llama_block_pool pool(8);
        llama_block_table table(pool);
        check_table(table, {}, "init");
        CHECK(table.append(0, 2) && table.append(0, 5) && table.append(7, 0), "append");
        check_table(table, {{0, {2, 5}}, {7, {0}}}, "append: free blocks are claimed");
        check_pool(pool, {1, 0, 1, 0, 0, 1, 0, 0}, 3, "append");
        CHECK(table.append(7, 2), "append of a taken block");
        check_pool(pool, {1, 0, 2, 0, 0, 1, 0, 0}, 3, "append of a taken block: one reference more");
        CHECK(!table.append(7, 8) && !table.append(9, NONE), "append of no block");
        check_table(table, {{0, {2, 5}}, {7, {0, 2}}}, "append of no block");

        CHECK(table.map(0, 1, 6), "mapping in place");
        check_table(table, {{0, {2, 6}}, {7, {0, 2}}}, "mapping in place");
        check_pool(pool, {1, 0, 2, 0, 0, 0, 1, 0}, 4, "mapping in place frees what was there");
        CHECK(table.map(0, 0, 2) && table.map(0, 1, 6), "mapping of what is there");
        CHECK(table.map(0, 2, 7) && table.map(3, 0, 1), "mapping of the next one");
        CHECK(!table.map(0, 4, 3) && !table.map(4, 1, 3), "mapping beyond the next one");
        CHECK(!table.map(0, 0, 8) && !table.map(0, 3, NONE) && !table.map(5, 0, 8), "mapping of no block");
        check_table(table, {{0, {2, 6, 7}}, {3, {1}}, {7, {0, 2}}}, "mapping");
        check_pool(pool, {1, 1, 2, 0, 0, 0, 1, 1}, 5, "mapping");

        CHECK(!table.unmap(0, 3) && !table.unmap(9, 2) && !table.unmap(7, 7) && !table.unmap(0, 8), "unmap of what is not there");
        CHECK(table.unmap(0, 2) && !table.unmap(0, 2) && table.unmap(3, 1), "unmap");
        check_table(table, {{0, {6, 7}}, {7, {0, 2}}}, "unmap: the rest moves up, an empty sequence is none");
        check_pool(pool, {1, 0, 1, 0, 0, 0, 1, 1}, 5, "unmap");

        CHECK(table.truncate(7, 2) && !table.truncate(7, 3) && !table.truncate(9, 1) && table.truncate(9, 0), "truncate to what there is");
        CHECK(table.truncate(0, 1) && table.truncate(7, 0), "truncate");
        check_table(table, {{0, {6}}}, "truncate");
        check_pool(pool, {0, 0, 0, 0, 0, 0, 1, 0}, 5, "truncate");
        table.clear(9);
        table.clear(0);
        check_table(table, {}, "clear sequence");
        check_pool(pool, Refs(8), 5, "clear sequence");
    }
    {
        llama_block_pool pool(6);
        {
            llama_block_table table(pool);
            for (const uint32_t block : pool.allocate_many(3)) {
                CHECK(table.append(1, block) && pool.release(block), "pool and table: the table keeps it");
            }
            check_pool(pool, {1, 1, 1, 0, 0, 0}, 3, "pool and table");
            table.copy(1, 2);
            check_table(table, {{1, {0, 1, 2}}, {2, {0, 1, 2}}}, "copy sequence");
            check_pool(pool, {2, 2, 2, 0, 0, 0}, 3, "copy sequence takes references");
            table.copy(1, 2);
            table.copy(2, 2);
            check_pool(pool, {2, 2, 2, 0, 0, 0}, 3, "copy of the same again, and onto itself");
            CHECK(table.append(3, 5) && table.append(3, 1), "append");
            table.copy(2, 3);
            check_table(table, {{1, {0, 1, 2}}, {2, {0, 1, 2}}, {3, {0, 1, 2}}}, "copy in place of others");
            check_pool(pool, {3, 3, 3, 0, 0, 0}, 4, "copy frees what was there");
            table.clear(1);
            check_pool(pool, {2, 2, 2, 0, 0, 0}, 4, "the others keep what is shared");
            table.copy(1, 2);
            check_table(table, {{3, {0, 1, 2}}}, "copy of an empty sequence");
            check_pool(pool, {1, 1, 1, 0, 0, 0}, 4, "copy of an empty sequence");
            table.copy(3, -1); // numbers of sequences are only names
            CHECK((table.sequences() == std::vector<int32_t>{-1, 3}), "ascending");
            table.clear(-1);

            table.copy(3, 4);
            CHECK(!table.writable(3, 3) && !table.writable(8, 0) && !table.writable(3, NONE), "copy on write: no such entry");
            CHECK(table.writable(3, 1) == 3u && table.copies() == 1, "copy on write of a shared block");
            check_table(table, {{3, {0, 3, 2}}, {4, {0, 1, 2}}}, "copy on write of a shared block");
            check_pool(pool, {2, 1, 2, 1, 0, 0}, 4, "copy on write of a shared block");
            CHECK(table.writable(3, 1) == 3u && table.writable(4, 1) == 1u && table.copies() == 1, "copy on write of an own block");
            CHECK(pool.allocate_many(2).size() == 2 && !table.writable(4, 0), "copy on write in a full pool");
            check_table(table, {{3, {0, 3, 2}}, {4, {0, 1, 2}}}, "copy on write in a full pool");
            check_pool(pool, {2, 1, 2, 1, 1, 1}, 6, "copy on write in a full pool");
            CHECK(pool.release(5) && table.writable(4, 0) == 5u && table.copies() == 2, "copy on write when there is room again");
            check_pool(pool, {1, 1, 2, 1, 1, 1}, 6, "copy on write when there is room again");
            CHECK(pool.release(4), "what was allocated beside the table");
        }
        check_pool(pool, Refs(6), 6, "the end of a table frees its blocks");
    }
    {
        llama_block_pool pool(3);
        llama_block_table one(pool), other(pool);
        CHECK(one.append(0, 1) && other.append(0, 1) && other.append(1, 2), "two tables");
        one.clear();
        one.clear();
        check_table(one, {}, "clear");
        check_pool(pool, {0, 1, 1}, 2, "clear leaves another table's references");
        pool.clear(); // under the other table: what it holds is stale
        CHECK(other.truncate(1, 0) && other.unmap(0, 1), "stale entries go");
        check_table(other, {}, "stale entries go");
        check_pool(pool, {0, 0, 0}, 2, "stale entries go");
    }
    return 3;
}

//
// walks
//

static uint32_t any_block(Random & random, uint32_t n_blocks) {
    return random.once_in(12) ? (random.once_in(2) ? NONE : n_blocks + (uint32_t) random.pick(0, 2)) : (uint32_t) random.pick(0, n_blocks);
}

static int32_t any_seq(Random & random) {
    return random.once_in(15) ? (random.once_in(2) ? -1 : INT32_MAX) : (int32_t) random.pick(0, 5);
}

static size_t run_walk(uint64_t seed, size_t steps) {
    Random random(seed);
    const uint32_t n_blocks = (uint32_t) random.pick(1, 48);
    llama_block_pool  pool(n_blocks);
    llama_block_table table(pool);
    Reference         reference(n_blocks);
    for (size_t step = 0; step < steps; step++) {
        const uint32_t block = any_block(random, n_blocks);
        const int32_t  seq   = any_seq(random);
        const int32_t  other = any_seq(random);
        const uint32_t index = (uint32_t) random.pick(0, reference.held(seq).size() + 1);
        const uint32_t n     = (uint32_t) random.pick(0, random.once_in(4) ? n_blocks + 1 : 4);
        const size_t   kind  = random.pick(0, 99);
        const auto     same  = [&](bool here, bool there, const char * what) {
            CHECK(here == there, "seed %llu, step %zu: %s(sequence %d, index %u, block %u) is %d", (unsigned long long) seed, step, what,
                    seq, index, block, here);
        };
        if (kind < 6) {
            same(pool.allocate() == reference.allocate(), true, "allocate");
        } else if (kind < 10) {
            same(pool.allocate_many(n) == reference.allocate_many(n), true, "allocate_many");
        } else if (kind < 14) {
            same(pool.claim(block), reference.claim(block), "claim");
        } else if (kind < 20) {
            same(pool.share(block), reference.share(block), "share");
        } else if (kind < 34) {
            // only what is held beside the table: the table's own would be stale
            if (reference.is_outside(block) || !reference.is_used(block)) {
                same(pool.release(block), reference.release(block), "release");
            }
        } else if (kind < 52) {
            same(table.append(seq, block), reference.append(seq, block), "append");
        } else if (kind < 62) {
            same(table.map(seq, index, block), reference.map(seq, index, block), "map");
        } else if (kind < 74) {
            same(table.unmap(seq, block), reference.unmap(seq, block), "unmap");
        } else if (kind < 82) {
            same(table.truncate(seq, index), reference.truncate(seq, index), "truncate");
        } else if (kind < 90) {
            table.copy(seq, other);
            reference.copy(seq, other);
        } else if (kind < 97) {
            same(table.writable(seq, index) == reference.writable(seq, index), true, "writable");
        } else if (kind < 99) {
            table.clear(seq);
            reference.truncate(seq, 0);
        } else if (random.once_in(3)) {
            table.clear();
            reference.clear_table();
            if (random.once_in(2)) {
                pool.clear();
                reference.clear_outside();
            }
        }
        check_pool(pool, reference.references(), reference.peak(), "walk");
        check_table(table, reference.entries, "walk");
        CHECK(table.copies() == reference.copies, "seed %llu, step %zu: %llu copies", (unsigned long long) seed, step, (unsigned long long) table.copies());
    }
    return steps;
}

int main(int argc, char ** argv) {
    const std::string command = argc > 1 ? argv[1] : "";
    size_t done = 0;
    if (command == "pool") {
        done = run_pool();
    } else if (command == "table") {
        done = run_table();
    } else if (command == "walk" && argc == 4) {
        done = run_walk(strtoull(argv[2], nullptr, 10), strtoull(argv[3], nullptr, 10));
    } else {
        fprintf(stderr, "usage: %s pool | table | walk SEED STEPS\n", argv[0]);
        return 2;
    }
    printf("ok %zu\n", done);
    return 0;
}

#pragma once

// Blobs that are not as they were written: truncated, with a bit flipped, with hostile lengths.

#include "llama-state-blob.h"
#include "state_ranges.h"

#include <cstring>

inline bool is_read(const std::vector<uint8_t> & bytes, llama_state_blob & blob) {
    std::vector<uint8_t> exact(bytes); // its end is the allocation's: a sanitizer sees what is read beyond
    exact.shrink_to_fit();
    const char * reason = llama_state_blob_read(exact.data(), exact.size(), blob);
    CHECK(reason == nullptr || *reason != '\0', "refused without a reason");
    return reason == nullptr;
}

inline size_t run_blob() {
    Random random(3);
    llama_state_blob blob;
    size_t refused = 0;
    for (const size_t meta_size : {0, 1, 7, 8, 9, 40, 333}) {
        std::vector<uint8_t> meta(meta_size);
        for (auto & byte : meta) {
            byte = (uint8_t) random.pick(0, 255);
        }
        const llama_state_blob_head head = {random.engine(), random.engine(), 5};
        std::vector<uint8_t> bytes(llama_state_blob_size(meta_size), 0xee);
        CHECK(llama_state_blob_write(head, meta, bytes.data()) == bytes.size(), "size");
        CHECK(is_read(bytes, blob), "its own blob is refused");
        CHECK(llama_state_blob_read(bytes.data(), bytes.size(), blob) == nullptr && blob.head.nonce == head.nonce && blob.head.id == head.id &&
                blob.head.flags == head.flags && blob.meta_size == meta_size && (meta.empty() || memcmp(blob.meta, meta.data(), meta_size) == 0),
            "what was read is not what was written");
        for (size_t size = 0; size < bytes.size(); size++) {
            CHECK(!is_read({bytes.begin(), bytes.begin() + (long) size}, blob), "truncated to %zu of %zu", size, bytes.size());
            refused++;
        }
        for (size_t bit = 0; bit < 8 * bytes.size(); bit++) {
            std::vector<uint8_t> flipped = bytes;
            flipped[bit / 8] ^= (uint8_t) (1u << bit % 8);
            CHECK(!is_read(flipped, blob), "bit %zu of %zu flipped", bit, 8 * bytes.size());
            refused++;
        }
        // whatever eight bytes of the head say
        for (size_t at = 0; at + 8 <= std::min<size_t>(48, bytes.size()); at += 4) {
            for (const uint64_t value : {uint64_t(0), uint64_t(1), uint64_t(47), uint64_t(48), UINT64_MAX, UINT64_MAX - 47, uint64_t(1) << 63, uint64_t(bytes.size()) + 1}) {
                std::vector<uint8_t> hostile = bytes;
                memcpy(&hostile[at], &value, 8);
                CHECK(hostile == bytes || !is_read(hostile, blob), "head bytes %zu are %llu", at, (unsigned long long) value);
                refused++;
            }
        }
        std::vector<uint8_t> longer = bytes;
        longer.resize(bytes.size() + 13, 0xab);
        CHECK(llama_state_blob_read(longer.data(), longer.size(), blob) == nullptr && blob.meta_size == meta_size, "in a larger buffer");
    }
    CHECK(llama_state_blob_read(nullptr, 0, blob) != nullptr && llama_state_blob_read(nullptr, 1000, blob) != nullptr, "no bytes at all");
    const std::vector<uint8_t> zeros(4096, 0);
    CHECK(!is_read(zeros, blob), "zeros");
    return refused;
}

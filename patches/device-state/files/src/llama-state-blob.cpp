#include "llama-state-blob.h"

#include <cstring>

static constexpr uint32_t BLOB_MAGIC   = 0x5344504c; // "LPDS"
static constexpr uint32_t BLOB_VERSION = 1;

namespace {

// as it lies in the blob; the sum is over all that follows it
struct blob_layout {
    uint32_t magic;
    uint32_t version;
    uint64_t sum;
    uint64_t size; // of the blob
    uint64_t nonce;
    uint64_t id;
    uint32_t flags;
    uint32_t reserved;
};

} // namespace

static constexpr size_t SUMMED_FROM = offsetof(blob_layout, size);

static_assert(sizeof(blob_layout) == 48, "the head has no padding");

// Eight bytes at a time; every step is reversible, so one changed word always changes the sum.
static uint64_t checksum(const uint8_t * data, size_t size) {
    uint64_t sum = 0x9e3779b97f4a7c15u ^ size;

    while (size > 0) {
        const size_t n = size < 8 ? size : 8;

        uint64_t word = 0;
        memcpy(&word, data, n);

        sum ^= word;
        sum *= 0xff51afd7ed558ccdu;
        sum ^= sum >> 32;

        data += n;
        size -= n;
    }

    return sum;
}

size_t llama_state_blob_size(size_t meta_size) {
    return sizeof(blob_layout) + meta_size;
}

size_t llama_state_blob_write(const llama_state_blob_head & head, const std::vector<uint8_t> & meta, uint8_t * dst) {
    const size_t size = llama_state_blob_size(meta.size());

    blob_layout layout = { BLOB_MAGIC, BLOB_VERSION, 0, size, head.nonce, head.id, head.flags, 0 };

    memcpy(dst, &layout, sizeof(layout));
    if (!meta.empty()) {
        memcpy(dst + sizeof(layout), meta.data(), meta.size());
    }

    layout.sum = checksum(dst + SUMMED_FROM, size - SUMMED_FROM);
    memcpy(dst, &layout, sizeof(layout));

    return size;
}

const char * llama_state_blob_read(const uint8_t * src, size_t size, llama_state_blob & blob) {
    blob_layout layout;

    if (src == nullptr || size < sizeof(layout)) {
        return "it is truncated";
    }
    memcpy(&layout, src, sizeof(layout));

    if (layout.magic != BLOB_MAGIC || layout.version != BLOB_VERSION) {
        return "it is no state on the device; one in host memory is restored without LLAMA_STATE_SEQ_FLAGS_ON_DEVICE";
    }
    if (layout.size < sizeof(layout) || layout.size > size) {
        return "it is truncated";
    }
    if (layout.sum != checksum(src + SUMMED_FROM, layout.size - SUMMED_FROM)) {
        return "it is damaged";
    }

    blob.head      = { layout.nonce, layout.id, layout.flags };
    blob.meta      = src + sizeof(layout);
    blob.meta_size = layout.size - sizeof(layout);

    return nullptr;
}
